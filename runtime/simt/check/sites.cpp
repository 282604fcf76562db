#include "runtime/simt/check/sites.h"

#include <backtrace.h>

#include <string_view>

#include "runtime/error.h"

namespace taper::simt {

namespace {

// libbacktrace reads the debugging information of the executable once.
backtrace_state* state() {
  static backtrace_state* state = backtrace_create_state(
      nullptr, 1, [](void*, const char*, int) {}, nullptr);
  return state;
}

int add_frame(void* result, uintptr_t, const char* file, int line, const char*) {
  auto& frames = *static_cast<std::string*>(result);
  if (file == nullptr) return 0;
  std::string path = root_relative(file);
  // Ours and the standard library's are not what the kernel's author looks for.
  if (path.starts_with("runtime/simt/") || path.starts_with("/usr/")) return 0;
  frames += fmt::format("{}{}:{}", frames.empty() ? "" : ", called at ", path, line);
  return 0;
}

}  // namespace

std::string root_relative(const char* path) {
  constexpr std::string_view kThis = "runtime/simt/check/sites.cpp", kHere = __FILE__;
  constexpr std::string_view kRoot = kHere.substr(0, kHere.size() - kThis.size());
  std::string_view text = path;
  if (text.starts_with(kRoot)) text.remove_prefix(kRoot.size());
  while (text.starts_with("../")) text.remove_prefix(3);
  return std::string(text);
}

uint16_t Sites::insert(size_t slot, uintptr_t key, std::source_location where) {
  if (sites_.size() == kSlots) throw Failure("more than {} instructions of kernels access memory", kSlots);
  slots_[slot] = static_cast<uint16_t>(sites_.size());
  sites_.push_back({key, where});
  return slots_[slot];
}

std::string Sites::text(uint16_t number) const {
  const Site& site = sites_[number];
  if (site.where.line() != 0)
    return fmt::format("{}:{}", root_relative(site.where.file_name()), site.where.line());
  std::string frames;
  backtrace_pcinfo(
      state(), site.key - 1, add_frame, [](void*, const char*, int) {}, &frames);
  return frames.empty() ? fmt::format("the instruction at {:#x}", site.key) : frames;
}

}  // namespace taper::simt
