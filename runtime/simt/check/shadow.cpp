#include "runtime/simt/check/shadow.h"

namespace taper::simt {

namespace {

void add_read(Cell& cell, Access access, const Clock& clock, bool shared) {
  auto& [first, last] = cell.reads;
  if (first.time == 0 || clock.passed(first, shared)) {
    first = access;
  } else if (first.thread == access.thread) {
    first.bytes |= access.bytes;
  } else if (last.time == 0 || clock.passed(last, shared) || first.thread / 32 != access.thread / 32 ||
             first.thread / 32 == last.thread / 32) {  // one of another warp is worth more
    last = access;
  }
}

void add_write(Cell& cell, Access access) {
  auto& [last, other] = cell.writes;
  auto covered = [&](const Access& earlier) { return (earlier.bytes & ~access.bytes) == 0; };
  if (!covered(last))
    other = last;
  else if (covered(other))
    other = {};
  last = access;
  if (access.bytes == 0xF) cell.reads = {};
}

}  // namespace

const Access* add(Cell& cell, Access access, const Clock& clock, bool shared) {
  auto conflicts = [&](const Access& earlier) {
    return earlier.time != 0 && clock.conflict(earlier, access, shared);
  };
  for (const Access& earlier : cell.writes)
    if (conflicts(earlier)) return &earlier;
  if (!access.write) {
    add_read(cell, access, clock, shared);
    return nullptr;
  }
  for (const Access& earlier : cell.reads)
    if (conflicts(earlier)) return &earlier;
  add_write(cell, access);
  return nullptr;
}

}  // namespace taper::simt
