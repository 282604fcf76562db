// What every kernel asks of memory, on shapes like those of ResNet-50 and BERT: the limits that it is held
// to, and the table in docs/kernels.md, which TAPER_WRITE_ACCESSES=1 build-check/tests/simt_check_access_test
// writes.

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "runtime/file.h"
#include "runtime/simt/check/report.h"
#include "tests/simt/access_ops.h"

namespace taper::simt_test {
namespace {

struct Variant {
  std::string name;
  DType type;
  bool tf32;
};
const std::array<Variant, 3> kVariants = {
    {{"f32", DType::f32, false}, {"bf16", DType::bf16, false}, {"tf32", DType::f32, true}}};

struct Traffic {
  int64_t moved = 0, least = 0;
  double ratio() const { return static_cast<double>(moved) / static_cast<double>(least); }
};
struct Memory {
  bool shared, write;
  auto operator<=>(const Memory&) const = default;
};
/// By kernel.
using Counted = std::map<std::pair<std::string, Memory>, Traffic>;

Counted count(const Op& op, const Variant& variant) {
  CudaBackend backend("sim", 0, {.tf32 = variant.tf32});
  const auto stream = backend.make_stream(1);
  Ops ops(backend, *stream, variant.type);
  const Call call = op.prepare(ops);
  stream->synchronize();
  simt::count_accesses(true);
  call();
  stream->synchronize();
  Counted counted;
  for (const simt::LineCounts& line : simt::line_counts()) {
    Traffic& sum = counted[{line.kernel, {line.shared, line.write}}];
    sum.moved += line.moved;
    sum.least += line.least;
  }
  simt::count_accesses(false);
  return counted;
}

constexpr double kMostSectors = 1.1;  // of the least possible

/// Kernels that take more sectors, and why.
struct Exception {
  std::string op, kernel;
  bool write;
  std::map<std::string, double> at_most;  ///< by variant
  char note;                              ///< below the table
};
const std::vector<Exception> kExceptions = {
    {"convolution 7x7/2 of 3 channels",
     "conv_product_kernel",
     false,
     {{"f32", 1.2}, {"bf16", 1.7}, {"tf32", 1.3}},
     'a'},
    {"convolution 7x7/2 of 3 channels, filter gradient",
     "filter_gradient_kernel",
     false,
     {{"f32", 1.6}, {"bf16", 2.1}, {"tf32", 1.6}},
     'a'},
    {"convolution 7x7/2 of 3 channels, filter gradient",
     "filter_gradient_kernel",
     true,
     {{"f32", 4.6}, {"bf16", 4.6}, {"tf32", 4.6}},
     'b'},
    {"embedding, gradient", "move_kernel", true, {{"f32", 4.1}, {"bf16", 4.1}}, 'c'},
};

/// 1,234,567
std::string with_commas(int64_t number) {
  std::string text = std::to_string(number);
  for (auto at = static_cast<int64_t>(text.size()) - 3; at > 0; at -= 3)
    text.insert(static_cast<size_t>(at), ",");
  return text;
}

/// A line of the table: an op in all its types.
struct Row {
  std::string sectors, passes;    // of all kernels, by type
  double global = 0, shared = 0;  // the worst ratio of a kernel, reading or writing
  std::string notes;
};

class Accesses {
 public:
  /// Counts the op, holds its kernels to the limits, and adds what they moved to the row.
  void measure(const Op& op, const Variant& variant, Row& row) {
    int64_t sectors = 0, passes = 0;
    for (const auto& [key, traffic] : count(op, variant)) {
      const auto& [kernel, memory] = key;
      const std::string what = fmt::format("{} in {}: {}, {}", op.name, variant.name, kernel,
                                           memory.write ? "writing" : "reading");
      if (memory.shared) {
        EXPECT_EQ(traffic.moved, traffic.least) << "bank conflicts: " << what;
        row.shared = std::max(row.shared, traffic.ratio());
        passes += traffic.moved;
        continue;
      }
      row.global = std::max(row.global, traffic.ratio());
      sectors += traffic.moved;
      if (traffic.ratio() <= kMostSectors) continue;
      const Exception* exception = find(op.name, kernel, memory.write);
      ASSERT_NE(exception, nullptr) << traffic.ratio() << " times the least sectors: " << what;
      EXPECT_LE(traffic.ratio(), exception->at_most.at(variant.name)) << what;
      uses_[exception].insert(variant.name);
      if (row.notes.find(exception->note) == std::string::npos)
        row.notes += fmt::format(" ({})", exception->note);
    }
    row.sectors += fmt::format("{}{}", row.sectors.empty() ? "" : " / ", with_commas(sectors));
    row.passes += fmt::format("{}{}", row.passes.empty() ? "" : " / ", with_commas(passes));
  }

  void expect_exceptions_used() {
    for (const Exception& e : kExceptions)
      EXPECT_EQ(uses_[&e].size(), e.at_most.size()) << e.kernel << " of " << e.op << " needs no exception";
  }

 private:
  static const Exception* find(const std::string& op, const std::string& kernel, bool write) {
    for (const Exception& e : kExceptions)
      if (e.op == op && e.write == write && kernel.find(e.kernel) != std::string::npos) return &e;
    return nullptr;
  }

  std::map<const Exception*, std::set<std::string>> uses_;
};

std::string table() {
  Accesses accesses;
  std::string text =
      "| op | sectors of global memory | of the least | passes over shared memory | of the least |\n"
      "| --- | --- | ---: | --- | ---: |\n";
  const auto rows = [&](const std::vector<Op>& ops, size_t variants) {
    for (const Op& op : ops) {
      Row row;
      for (size_t i = 0; i < variants; ++i) accesses.measure(op, kVariants[i], row);
      const bool any_shared = row.shared > 0;
      text += fmt::format("| {} | {} | {:.2f}{} | {} | {} |\n", op.name, row.sectors, row.global, row.notes,
                          any_shared ? row.passes : "", any_shared ? fmt::format("{:.2f}", row.shared) : "");
    }
  };
  rows(products(), 3);
  rows(other_ops(), 2);
  rows(ops_of_f32(), 1);
  accesses.expect_exceptions_used();
  return text;
}

TEST(SimtAccesses, FitBanksAndSectors) {
  const std::string path = std::string(TAPER_SOURCE_DIR) + "/docs/kernels.md";
  const std::string begin = "<!-- accesses: written by tests/simt_check_access_test.cpp -->\n",
                    end = "<!-- end -->\n";
  const std::vector<std::byte> bytes = read_file(path);
  std::string page(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const size_t from = page.find(begin), to = page.find(end, from);
  ASSERT_NE(from, std::string::npos);
  ASSERT_NE(to, std::string::npos);
  const size_t first = from + begin.size();
  const std::string text = "\n" + table();
  if (std::getenv("TAPER_WRITE_ACCESSES") != nullptr)
    write_file_atomically(path, page.replace(first, to - first, text));
  EXPECT_EQ(page.substr(first, page.find(end, from) - first), text)
      << "docs/kernels.md is behind; TAPER_WRITE_ACCESSES=1 writes it";
}

}  // namespace
}  // namespace taper::simt_test
