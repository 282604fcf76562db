#pragma once
// The places in kernels that access memory, by small numbers.

#include <cstdint>
#include <source_location>
#include <string>
#include <vector>

namespace taper::simt {

class Sites {
 public:
  Sites() : slots_(kSlots), sites_(1) {}

  /// Of an instruction.
  uint16_t of_instruction(uintptr_t address) { return find(address, {}); }
  uint16_t of_line(std::source_location where) {
    return find(reinterpret_cast<uintptr_t>(where.file_name()) ^ uintptr_t{where.line()} << 48, where);
  }
  /// "kernels/cuda/matmul.cu:40"; through the lines that called it where functions were inlined, but for
  /// those of runtime/simt itself.
  std::string text(uint16_t site) const;

 private:
  static constexpr size_t kSlots = 1 << 16;

  struct Site {
    uintptr_t key = 0;
    std::source_location where;  // line 0: an instruction
  };

  uint16_t find(uintptr_t key, std::source_location where) {
    size_t slot = key * 0x9E3779B97F4A7C15 >> 48;
    while (slots_[slot] != 0 && sites_[slots_[slot]].key != key) slot = (slot + 1) % kSlots;
    return slots_[slot] != 0 ? slots_[slot] : insert(slot, key, where);
  }
  uint16_t insert(size_t slot, uintptr_t key, std::source_location where);

  std::vector<uint16_t> slots_;
  std::vector<Site> sites_;  // from 1 on
};

/// A path as the repository knows it.
std::string root_relative(const char* path);

}  // namespace taper::simt
