"""Run the command line with `python -m resnet_infer`, which is the command `resnet-infer`."""

from resnet_infer.cli.main import main

if __name__ == "__main__":
    main()
