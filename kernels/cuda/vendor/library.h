#pragma once
// A library that is looked for when it is wanted, so that a program runs without it.

#include <dlfcn.h>

#include <string>

#include "runtime/error.h"

namespace taper {

class Library {
 public:
  /// UserError that says what wants it (`setting`, as "matmul") where it cannot be loaded.
  Library(std::string file, const std::string& setting)
      : file_(std::move(file)), handle_(dlopen(file_.c_str(), RTLD_NOW | RTLD_LOCAL)) {
    if (handle_ == nullptr)
      throw UserError(
          "{} needs NVIDIA's library {}, which cannot be loaded ({}); name its folder in LD_LIBRARY_PATH, or "
          "set {} = \"own\"",
          setting, file_, dlerror(), setting);
  }
  // Never unloaded: its threads and streams may outlive whoever asked for it.

  /// Sets `function` to the library's function of this name.
  template <typename Function>
  void find(Function*& function, const char* name) const {
    function = reinterpret_cast<Function*>(dlsym(handle_, name));
    TAPER_CHECK(function != nullptr, "{} has no function {}", file_, name);
  }

 private:
  std::string file_;
  void* handle_;
};

}  // namespace taper
