"""README.md and docs/: command lines parse, files are written before they are read, options, variables, links exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer

import resnet_infer
from resnet_infer import Classifier, zoo
from resnet_infer.cli.main import COMMANDS, app
from resnet_infer.serving.settings import Settings, variable
from tests.conftest import DEMO, ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
HOW_TO = sorted((ROOT / "docs" / "how-to").glob("*.md"))
ENVIRONMENT = ROOT / "docs" / "environment.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
OTHERS_OPTIONS = {
    *("--upgrade", "--index-url"),  # pip
    *("--cpus", "--gpus", "--user", "--shm-size", "--pids-limit"),  # docker run
    *("--reload", "--host", "--port"),  # bentoml serve
    *(
        "--nproc-per-node",
        "--logdir",
        "--preload",
        "--http2",
        "--dtype",
        "--hidden-import",
        "--py-files",
    ),  # torchrun, TensorBoard, gunicorn, curl, MLPerf, PyInstaller, Spark
    *("--shortened", "--photos"),  # experiments/cifar10.py, tools/compare_trees.py
}
OF_THE_READER = {"resnet50.pth", "resnet50-11ad3fa6.pth", "classifier.onnx", "names.txt"}
"""Files that a page says the reader brings."""
MADE = (".onnx", ".safetensors", ".engine")


def ids(page: Path) -> str:
    return page.name


def shell_lines(text: str) -> list[str]:
    """The lines of all `sh` blocks, with continuations joined and comments removed."""
    blocks = "\n".join(body for language, body in FENCE.findall(text) if language == "sh")
    return [line for line in blocks.replace("\\\n", " ").splitlines() if line.strip()]


def command_lines(text: str) -> Iterator[list[str]]:
    """The arguments of every `resnet-infer ...`: in `sh` blocks, behind a prompt, and in inline code."""
    inline = re.findall(r"`(?:python -m )?(resnet-infer [^`]+)`", FENCE.sub("", text))
    prompts = re.findall(r"^\$ (resnet-infer .+)$", text, re.M)
    for line in (*shell_lines(text), *prompts, *inline):
        words = shlex.split(line, comments=True)
        for name, start in (("resnet-infer", 1), ("resnet_infer", 1)):
            if name in words and (part := words[words.index(name) + start :]):
                yield part[: part.index("|")] if "|" in part else part


def group() -> Any:
    """The command line: a group of click, or of the click that typer brings."""
    return typer.main.get_command(app)


def usage_error(arguments: list[str]) -> str | None:
    """Parse a command line as the command does, without running it, and return what is wrong with it."""
    whole = group()
    try:
        with whole.make_context("resnet-infer", list(arguments)) as context:
            name, command, rest = whole.resolve_command(context, list(arguments))
            command.make_context(name, rest, parent=context)
    except typer.Exit:  # --help and --version
        return None
    except Exception as error:
        if not hasattr(error, "show"):
            raise
        return str(error)
    return None


def lines_of_all_pages() -> list[tuple[str, list[str]]]:
    return [(page.name, words) for page in PAGES for words in command_lines(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(
    ("page", "arguments"), lines_of_all_pages(), ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_a_command_line_parses(page: str, arguments: list[str]) -> None:
    assert usage_error(arguments) is None


def test_an_option_that_is_gone_would_be_noticed() -> None:
    for wrong in (["classify", "x.jpg", "--crop", "10"], ["export", "--precision", "int9"], ["clasify", "x.jpg"]):
        assert usage_error(wrong)


def test_command_lines_are_found_on_the_pages_that_have_them() -> None:
    found = [page for page, _ in lines_of_all_pages()]
    assert found.count("README.md") >= 20
    assert {"training.md", "serving.md", "export.md", "loadgen.md", "environment.md"} <= set(found)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_an_option_that_a_page_names_exists(page: Path) -> None:
    whole = group()
    with whole.make_context("resnet-infer", ["env"]) as context:
        parameters = [*whole.params]
        for name in COMMANDS:
            command = whole.get_command(context, name)
            assert command is not None
            parameters += command.params
    known = {option for item in parameters for option in (*item.opts, *item.secondary_opts)} | {"--help"}
    text = page.read_text(encoding="utf-8")
    named = {
        match for code in re.findall(r"`([^`\n]+)`", text) for match in re.findall(r"(?<![\w-])--[a-z][\w-]+", code)
    }
    assert named - known - OTHERS_OPTIONS == set()


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_a_file_is_written_before_a_command_of_the_page_reads_it(page: Path) -> None:
    """Commands pasted one after another: an artifact that is read is the output of one before, or the reader's own."""
    made, missing = set(OF_THE_READER), []
    for line in shell_lines(page.read_text(encoding="utf-8")):
        words = shlex.split(line, comments=True)
        if "resnet-infer" not in words and "resnet_infer" not in words:
            continue
        output = words[words.index("-o") + 1] if "-o" in words else None
        for word in words:
            file = word.rpartition(":")[2]
            run = str(Path(file).parent)
            if word != output and file.endswith((*MADE, ".pth")) and not made & {file, run}:
                missing.append(f"{file} in: {line}")
        made |= {output} if output else set()
    assert missing == []


def test_every_variable_of_the_package_is_on_the_page() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "resnet_infer").rglob("*.py"))
    prefix = variable("")
    read = {name for name in re.findall(r"RESNET_INFER_[A-Z_]*[A-Z]", source) if not name.startswith(prefix[:-1])}
    text = ENVIRONMENT.read_text(encoding="utf-8")
    named = set(re.findall(r"`(RESNET_INFER_[A-Z_]+)[`=]", text))
    assert len(read) >= 5
    assert read | {variable(field.name) for field in fields(Settings)} <= named


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_a_variable_that_a_page_names_is_read_somewhere(page: Path) -> None:
    places = [*(ROOT / "resnet_infer").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    source = "\n".join(path.read_text(encoding="utf-8") for path in places if path != Path(__file__))
    known = {*re.findall(r"RESNET_INFER_[A-Z_]+", source), *(variable(field.name) for field in fields(Settings))}
    assert set(re.findall(r"RESNET_INFER_[A-Z_]*[A-Z]", page.read_text(encoding="utf-8"))) - known == set()


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *HOW_TO], ids=ids)
def test_a_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    broken = []
    for link in (*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r'src="([^"]+)"', text)):
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_reached_from_the_readme() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"(docs/{page.name})" not in text] == []


def test_every_how_to_page_is_reached_from_the_page_for_contributors() -> None:
    text = PAGES[1].read_text(encoding="utf-8")
    assert [page.name for page in HOW_TO if f"(docs/how-to/{page.name})" not in text] == []


def test_the_readme_says_of_the_built_in_models_what_their_files_say() -> None:
    lines = PAGES[0].read_text(encoding="utf-8").splitlines()
    for name in zoo.BUILT_IN:
        row = next(line for line in lines if line.startswith(f"| `{name}`"))
        _, _, _, checkpoint, artifact, _ = row.split("|")
        for suffix, cell in ((".safetensors", checkpoint), (".onnx", artifact)):
            path = zoo.built_in(name, suffix)
            if suffix == ".onnx":
                with Classifier(path) as classifier:
                    spec = classifier.spec
            else:
                spec = zoo.checkpoint(path).spec
            (measured,) = spec.measured
            assert f"{path.stat().st_size / 1e6:.1f} MB" in cell
            assert f"{measured.top1_error:.2f}%" in cell
            assert measured.top5_error is None or f"{measured.top5_error:.2f}%" in cell
            assert f" {len(spec.classes)} " in row


def test_the_readme_shows_what_the_demo_prints() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    with Classifier(zoo.DEFAULT) as classifier:
        for name in ("cat", "coffee"):
            first, *others = classifier.classify(DEMO / f"{name}.jpg", top_k=3)
            shown = f"**{first.label}** {100 * first.probability:.1f}%" + "".join(
                f", {other.label} {100 * other.probability:.1f}%" for other in others
            )
            assert shown in text


def test_the_example_of_the_package_answers_what_it_shows() -> None:
    call, shown = re.findall(r"(Classifier\(.*?\)).*?^(\'.+\')$", resnet_infer.__doc__ or "", re.M | re.S)[0]
    model = re.search(r'"(.+)"', call)
    with Classifier(model and model[1]) as classifier:
        assert repr(classifier.classify(DEMO / "cat.jpg")[0].label) == shown


def test_what_the_page_on_the_architecture_names_is_in_the_code() -> None:
    """Its paths through the packages: a file or folder, and after the dot names in it."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("## From an image")[2]
    named = set(re.findall(r"`((?:[a-z_0-9]+/)*[a-z_0-9]+(?:/|(?:\.[A-Za-z_]+)+)?)`", text))
    found = [name for name in named if "/" in name or "." in name]
    assert len(found) >= 15
    for name in found:
        path, *names = name.rstrip("/").split(".")
        folder = ROOT if path.partition("/")[0] == "tests" else ROOT / "resnet_infer"
        if name in ("resnet_infer/a/b.py", "tests/a/", "test_b.py", "parity/", "tensorrt/"):  # of the section on tests
            continue
        assert (folder / path).is_dir() or (folder / f"{path}.py").is_file(), name
        if names:
            source = (folder / f"{path}.py").read_text(encoding="utf-8")
            assert all(re.search(rf"^\s*(def|class) {part}\b", source, re.M) for part in names), name


def test_the_page_of_peers_is_what_its_script_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import peers_table

    monkeypatch.setattr("sys.argv", ["peers_table"])
    monkeypatch.setattr(peers_table, "TARGET", tmp_path / "peers.md")
    peers_table.main()
    assert (tmp_path / "peers.md").read_text(encoding="utf-8") == (ROOT / "docs" / "peers.md").read_text(
        encoding="utf-8"
    )
