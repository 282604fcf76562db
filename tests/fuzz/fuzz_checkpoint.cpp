// A damaged checkpoint: it loads or is refused with a sentence. The first byte says what the rest is: the
// text of the manifest, or one of the two tensor files under a manifest that matches it, so that its parser
// is reached behind the checksum.

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string_view>

#include "runtime/checkpoint.h"
#include "runtime/error.h"
#include "runtime/file.h"
#include "runtime/manifest.h"

namespace {

namespace fs = std::filesystem;

/// One folder per process, in memory where the system has such a folder.
struct Folder {
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
  fs::path path = fs::path(fs::exists("/dev/shm") ? "/dev/shm" : fs::temp_directory_path()) /
                  fmt::format("taper-fuzz-checkpoint-{}", getpid());
};

void put(const fs::path& path, std::span<const std::byte> bytes) {
  fs::remove(path);
  taper::write_new_file(path, path, taper::Pieces(&bytes, 1));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Folder folder;
  if (size == 0) return 0;
  auto input = std::as_bytes(std::span(data + 1, size - 1));
  std::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
  taper::SafetensorsImage none({});
  auto sound = taper::bytes_of(none.header);
  auto weights = data[0] % 3 == 1 ? input : sound, state = data[0] % 3 == 2 ? input : sound;
  try {
    taper::Manifest manifest;
    manifest.identity = "fuzz";
    manifest.files["weights.safetensors"] = taper::record_of(taper::Pieces(&weights, 1));
    manifest.files["state.safetensors"] = taper::record_of(taper::Pieces(&state, 1));
    std::string sealed = taper::encode_manifest(manifest);
    put(folder.path / "weights.safetensors", weights);
    put(folder.path / "state.safetensors", state);
    put(folder.path / "manifest.json", data[0] % 3 == 0 ? input : taper::bytes_of(sealed));
    taper::Checkpoint checkpoint = taper::load_checkpoint(folder.path);
    // Nothing but what the manifest lists can have been loaded.
    if (data[0] % 3 == 0 && taper::encode_manifest(taper::decode_manifest(text, "")) != text) std::abort();
    if (data[0] % 3 != 0 && checkpoint.identity != "fuzz") std::abort();
  } catch (const taper::UserError&) {
    return 0;
  }
  return 0;
}
