#pragma once
// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3",
// SC 2011). A number is a pure function of (key, counter), so the same bits come out on every device, thread
// count, rank count and cache setting. Usable in device code: no state, no library calls.

#include <array>
#include <cstdint>
#include <string_view>

namespace taper {

/// Four 32-bit words from a 128-bit counter and a 64-bit key.
constexpr std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, uint64_t key) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    uint64_t p0 = uint64_t{0xD2511F53} * counter[0];
    uint64_t p1 = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ k0, static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return counter;
}

/// A uniform number in [0, 1), a multiple of 2^-24: exact in float, hence the same everywhere.
constexpr float uniform(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

/// A key for one purpose: folds a word into a key. Keys are built as fold(fold(seed, hash("stage")), unit)
/// ...
constexpr uint64_t fold(uint64_t key, uint64_t word) {
  auto r = philox({static_cast<uint32_t>(word), static_cast<uint32_t>(word >> 32), 0x74617065, 0}, key);
  return uint64_t{r[1]} << 32 | r[0];
}

/// FNV-1a, for turning a parameter's path or a stage's name into a word to fold.
constexpr uint64_t hash(std::string_view text) {
  uint64_t h = 0xCBF29CE484222325;
  for (char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  return h;
}

/// A stream of words for host code that draws a varying amount: word i of (key, sample, step).
/// Example: `Draws draws(key, step, sample); float u = draws.uniform(); uint32_t k = draws.below(n);`
class Draws {
 public:
  Draws(uint64_t key, uint64_t step, uint64_t sample) : key_(fold(key, step)), sample_(sample) {}
  uint32_t word() {
    if (next_ % 4 == 0)
      block_ =
          philox({next_ / 4, static_cast<uint32_t>(sample_), static_cast<uint32_t>(sample_ >> 32), 0}, key_);
    return block_[next_++ % 4];
  }
  /// In [0, 1).
  float uniform() { return taper::uniform(word()); }
  /// In [0, n), by multiply-shift; the bias is below n / 2^32. Requires n > 0.
  uint32_t below(uint32_t n) { return static_cast<uint32_t>(uint64_t{word()} * n >> 32); }
  /// Standard normal by Box-Muller, in double, on the host only (libm's bits are not promised elsewhere).
  double normal();

 private:
  uint64_t key_, sample_;
  uint32_t next_ = 0;
  std::array<uint32_t, 4> block_{};
};

}  // namespace taper
