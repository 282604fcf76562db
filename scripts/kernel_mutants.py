"""The faults that scripts/mutate.py puts into the CUDA kernels: what they are and where they fit."""
import collections
import hashlib
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent
KERNELS = ROOT / "kernels/cuda"
# Device code that only a GPU runs.
LEFT_OUT = {"ptx.cuh", "device_gpu.cu"}

Mutant = collections.namedtuple("Mutant", "id file line rule begin end after text")


# The rules: each yields (begin, end, replacement) in device code without comments.

def closing(code, start):
    """The place of the bracket that closes the one at `start`."""
    depth = 0
    for place in range(start, len(code)):
        depth += (code[place] in "([{") - (code[place] in ")]}")
        if depth == 0:
            return place
    return len(code) - 1


def replacements(pattern, replacement):
    def rule(code):
        for match in re.finditer(pattern, code):
            yield match.start(), match.end(), match.expand(replacement)
    return rule


def guards(code):
    """The condition of an `if` that compares sizes is always true; of one that leaves, never."""
    for match in re.finditer(r"\bif \(", code):
        last = closing(code, match.end() - 1)
        condition = code[match.end():last]
        begin = last - len(condition.rpartition(";")[2].lstrip())
        if not re.search(r" [<>]=? |inside|exists", code[begin:last]):
            continue
        leaves = re.match(r"\) (return|break|continue)\b", code[last:])
        yield begin, last, "false" if leaves else "true"


# The brackets of a declaration are no index.
DECLARATION = re.compile(r"\s*(?:(?:__shared__|__align__\(\d+\)|const|constexpr) )*[\w:]+(?:<[^;=]*>)? \w+\[")


def subscripts(code):
    """Lists of the (begin, end) of i, j, ... in each `name[i][j]...` that means an element."""
    for match in re.finditer(r"\b[a-z]\w*\[", code):
        start = max(code.rfind(mark, 0, match.start()) for mark in ";{}(")
        places, at = [], match.end() - 1
        while at < len(code) and code[at] == "[":
            places.append((at + 1, closing(code, at)))
            at = places[-1][1] + 1
        fixed = all(re.fullmatch(r"(?:\b(?:k?[A-Z]\w*|\d+)|[ +*/])+", code[begin:end]) for begin, end in places)
        statement = code[max(code.rfind(mark, 0, match.start()) for mark in ";}") + 1:]
        declared = any(DECLARATION.match(part) for part in (statement, code[start + 1:]))
        extents = all(re.search(r"\bk?[A-Z]", code[begin:end]) for begin, end in places)
        if places and not (fixed and (declared or extents)):
            yield places


def shifted_indices(code):
    for places in subscripts(code):
        begin, end = places[-1]
        yield begin, end, f"({code[begin:end]}) + 1"


def swapped_indices(code):
    for places in subscripts(code):
        for (begin, end), (next_begin, next_end) in zip(places, places[1:]):
            one, other = code[begin:end], code[next_begin:next_end]
            if one != other:
                yield begin, next_end, f"{other}][{one}"


RULES = {
    "barrier": replacements(r"__sync(threads|warp)\(\);", ";"),
    "wait": replacements(r"cp_async_(wait<[^;]*>|commit)\(\);", ";"),
    "guard": guards,
    "bound": replacements(r" [<>]=?(?= )", r"\g<0>"),  # the last three are turned by TURNED
    "index": shifted_indices,
    "swap": swapped_indices,
    "shrink": replacements(r"(__shared__ [^;\[]*\[)([^\]]+)\]", r"\1(\2) - 1]"),
    "lane": replacements(r"\b(?:lane|warp|thread|threadIdx\.[xy])(?:_number\(\))?\)? [/%](?= \w)", r"\g<0>"),
    "fragment": replacements(r"\bldmatrix_x4(_trans)?(?=\()", r"\1"),
}
TURNED = {
    "bound": lambda text: text.replace("=", "") if "=" in text else text + "=",
    "lane": lambda text: text[:-1] + ("%" if text[-1] == "/" else "/"),
    "fragment": lambda text: "ldmatrix_x4" if text else "ldmatrix_x4_trans",
}


def without_comments(text):
    """The same text with blanks for comments, strings and assertions, every character in its place."""
    blank = lambda match: re.sub(r"[^\n]", " ", match[0])
    return re.sub(r'//[^\n]*|"[^"\n]*"|static_assert\([^;]*;|^#[^\n]*', blank, text, flags=re.MULTILINE)


def device_code(code):
    """The text with blanks for whatever is no body of a __global__ or __device__ function."""
    kept, place = list(re.sub(r"[^\n]", " ", code)), 0
    for match in re.finditer(r"__(global|device)__", code):
        begin = re.compile(r"[{;]").search(code, max(match.end(), place))
        if match.start() < place or begin is None or begin[0] == ";":
            continue
        place = closing(code, begin.start()) + 1
        kept[begin.start():place] = code[begin.start():place]
    return "".join(kept)


def mutants_of(path):
    text = path.read_text()
    code = device_code(without_comments(text))
    lines, seen, found = text.split("\n"), collections.Counter(), []
    for rule, places in RULES.items():
        for begin, end, after in places(code):
            if rule in TURNED:
                after = TURNED[rule](after)
            line = code.count("\n", 0, begin)
            name = str(path.relative_to(ROOT))
            # Known by what it says, not by its line, so that an edit elsewhere in the file keeps it.
            key = (name, rule, lines[line].strip(), after)
            number, seen[key] = seen[key], seen[key] + 1
            digest = hashlib.sha1(repr((*key, number)).encode()).hexdigest()[:10]
            found.append(Mutant(digest, name, line + 1, rule, begin, end, after, lines[line].strip()))
    return sorted(found, key=lambda mutant: (mutant.begin, mutant.rule))


def kernel_files():
    return sorted(path for path in KERNELS.rglob("*.cu*") if path.name not in LEFT_OUT)
