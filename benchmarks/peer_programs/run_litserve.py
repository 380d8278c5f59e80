"""The service of `plain_litserve.py`, with batching and a process for every core, each on one thread.

python run_litserve.py PORT WORKERS
"""

from __future__ import annotations

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("port", metavar="PORT", type=int)
    parser.add_argument("workers", metavar="WORKERS", type=int, help="processes")
    given = parser.parse_args()

    import litserve

    from benchmarks.peer_programs.plain_litserve import Plain

    api = Plain(max_batch_size=8, batch_timeout=0.005)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=given.workers)
    server.run(host="127.0.0.1", port=given.port, generate_client_file=False, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
