#pragma once
// How well the accesses of a warp fit the banks of shared memory and the sectors of global memory, by source
// line. Only in builds with TAPER_SIMT_CHECK.

#include <cstdint>
#include <string>
#include <vector>

namespace taper::simt {

/// What the warps of a kernel did at a line: shared memory is moved in passes over its 32 banks of four
/// bytes, global memory in sectors of 32 bytes.
struct LineCounts {
  std::string kernel, line;
  bool shared, write;
  int64_t requests = 0;  // of a warp
  int64_t moved = 0;     // passes or sectors
  int64_t least = 0;     // the passes without a bank conflict, or the sectors that the bytes would fill
};

/// From the next launch on, accesses are counted anew (true), or no longer.
void count_accesses(bool count);

/// What was counted, by kernel and line. The first 4096 requests of a warp at a line between two of its
/// meetings are.
std::vector<LineCounts> line_counts();

/// The counts as a table in Markdown. With TAPER_SIMT_REPORT=FILE in the environment everything is counted
/// from the beginning, and the table written to FILE when the program ends.
std::string report();

/// Sees to TAPER_SIMT_REPORT; called before the first launch.
void report_at_exit();

}  // namespace taper::simt
