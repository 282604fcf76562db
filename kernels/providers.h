#pragma once
// Who makes an op on a GPU: Taper's own kernels or NVIDIA's libraries.

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>

namespace taper {

/// `automatic`: whichever is the faster for the op's shape, both timed when the shape first occurs.
enum class Provider : uint8_t { own, vendor, automatic };

/// "own", "vendor", "auto".
const char* name(Provider provider);
/// UserError for any other name.
Provider provider_named(const std::string& name);

/// What Provider::automatic has chosen, by op, type and shape. Thread-safe.
class ProviderChoices {
 public:
  struct Choice {
    Provider provider;
    double own_seconds,
        vendor_seconds;  ///< what decided it; infinite where a provider has nothing for the shape
  };
  /// The provider for `key`, own or vendor. Where none has been chosen yet, seconds(provider) runs the op
  /// once and says how long it took: both run once to warm up, then kRounds times by turns, and the one with
  /// the shorter minimum is chosen, own where they are equal. Callers on other threads wait, so that nothing
  /// of this process is timed beside something else that is.
  Provider choose(const std::string& key, const std::function<double(Provider)>& seconds);
  static constexpr int kRounds = 5;

  /// Whether a shape for which none has been chosen is from now on made by own, and nothing timed.
  void freeze(bool frozen);

  std::map<std::string, Choice> all() const;
  /// Puts choices that were made before in the place of those made so far.
  void set(std::map<std::string, Choice> choices);

 private:
  mutable std::mutex mutex_;
  std::map<std::string, Choice> choices_;
  bool frozen_ = false;
};

}  // namespace taper
