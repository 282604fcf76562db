"""Several mutants in one source, so that it is compiled once for all: the environment variable TAPER_MUTANT says which of them
a process runs, and none without it."""
import bisect
import re

# Comes before the source (-include).
PRELUDE = """#pragma once
#include <cstdlib>
#include <type_traits>
namespace mutants {
inline const int chosen = [] {
  const char* number = std::getenv("TAPER_MUTANT");
  return number ? std::atoi(number) : 0;
}();
inline bool is(int number) { return chosen == number; }

// a < b is written a < Less{n} < b, which binds as the comparison does; so are the others, and a / b is a * Quotient{n} * b.
template <typename Kind, typename A>
struct Half {
  Kind kind;
  A a;
};
struct Comparison {
  int number;
};
struct Less : Comparison {
  bool operator()(auto a, auto b) const { return is(number) ? a <= b : a < b; }
};
struct LessEqual : Comparison {
  bool operator()(auto a, auto b) const { return is(number) ? a < b : a <= b; }
};
struct Greater : Comparison {
  bool operator()(auto a, auto b) const { return is(number) ? a >= b : a > b; }
};
struct GreaterEqual : Comparison {
  bool operator()(auto a, auto b) const { return is(number) ? a > b : a >= b; }
};
struct Division {
  int number;
};
struct Quotient : Division {
  auto operator()(auto a, auto b) const { return is(number) ? a % b : a / b; }
};
struct Remainder : Division {
  auto operator()(auto a, auto b) const { return is(number) ? a / b : a % b; }
};
template <typename A, typename Kind>
  requires std::is_base_of_v<Comparison, Kind>
Half<Kind, A> operator<(A a, Kind kind) { return {kind, a}; }
template <typename A, typename Kind, typename B>
bool operator<(Half<Kind, A> half, B b) { return half.kind(half.a, b); }
template <typename A, typename Kind>
  requires std::is_base_of_v<Division, Kind>
Half<Kind, A> operator*(A a, Kind kind) { return {kind, a}; }
template <typename A, typename Kind, typename B>
auto operator*(Half<Kind, A> half, B b) { return half.kind(half.a, b); }
}  // namespace mutants
"""
KINDS = {"<": "Less", "<=": "LessEqual", ">": "Greater", ">=": "GreaterEqual"}


def switched(mutant, number, before):
    """What stands for `before` where both it and the mutant are compiled; None where that cannot be."""
    chosen = f"::mutants::is({number})"
    if mutant.rule in ("barrier", "wait"):
        return f"if (!{chosen}) {before}"
    if mutant.rule == "guard":
        return f"({chosen} ? {mutant.after} : static_cast<bool>({before}))"
    if mutant.rule == "index":
        return f"({before}) + ({chosen} ? 1 : 0)"
    if mutant.rule == "swap":
        one, other = before[:before.index("][")], before[before.index("][") + 2:]
        return None if f"{other}][{one}" != mutant.after else \
            f"({chosen} ? ({other}) : ({one}))][({chosen} ? ({one}) : ({other}))"
    if mutant.rule == "bound":
        return f" < ::mutants::{KINDS[before.strip()]}{{{number}}} <"
    if mutant.rule == "lane":
        kind = "Quotient" if before.endswith("/") else "Remainder"
        return f"{before[:-1]}* ::mutants::{kind}{{{number}}} *"
    return None  # the size of an array is fixed when it is compiled


def layers(mutants):
    """The mutants in lists, in each of which no two change the same place."""
    found = []
    for mutant in sorted(mutants, key=lambda m: (m.begin, m.end)):
        layer = next((layer for layer in found if layer[-1].end <= mutant.begin), None)
        if layer is None:
            found.append([mutant])
        else:
            layer.append(mutant)
    return found


def source(text, mutants):
    """The text with all of `mutants`, a layer: the first is number 1."""
    parts, place = [], 0
    for number, mutant in enumerate(mutants, 1):
        parts += [text[place:mutant.begin], switched(mutant, number, text[mutant.begin:mutant.end])]
        place = mutant.end
    return "".join([*parts, text[place:]])


def blamed(errors, name, mutants):
    """Those of `mutants` that the compiler's `errors` point at: on the lines of file `name` that they name, or the nearest
    before."""
    lines = [mutant.line for mutant in mutants]
    pattern = re.escape(name) + r":(\d+)(?::\d+)?: "
    named = re.findall(pattern + "error", errors) or re.findall(pattern, errors)
    found = set()
    for line in map(int, named):
        nearest = lines[max(bisect.bisect_right(lines, line) - 1, 0)]
        found |= {mutant for mutant in mutants if mutant.line == nearest}
    return found
