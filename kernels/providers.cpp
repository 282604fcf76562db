#include "kernels/providers.h"

#include <algorithm>
#include <limits>

#include "runtime/error.h"

namespace taper {

const char* name(Provider provider) {
  switch (provider) {
    case Provider::own:
      return "own";
    case Provider::vendor:
      return "vendor";
    case Provider::automatic:
      return "auto";
  }
  return "?";
}

Provider provider_named(const std::string& text) {
  for (Provider provider : {Provider::own, Provider::vendor, Provider::automatic})
    if (text == name(provider)) return provider;
  throw UserError("there is no provider \"{}\"; there are own, vendor and auto", text);
}

Provider ProviderChoices::choose(const std::string& key, const std::function<double(Provider)>& seconds) {
  std::lock_guard lock(mutex_);
  if (auto found = choices_.find(key); found != choices_.end()) return found->second.provider;
  if (frozen_) return Provider::own;
  double least[2] = {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
  for (int round = 0; round <= kRounds; ++round)
    for (Provider provider : {Provider::own, Provider::vendor}) {
      const double took = seconds(provider);
      double& shortest = least[provider == Provider::vendor];
      if (round > 0) shortest = std::min(shortest, took);  // the first warms up
    }
  const Provider faster = least[1] < least[0] ? Provider::vendor : Provider::own;
  choices_[key] = {faster, least[0], least[1]};
  return faster;
}

void ProviderChoices::freeze(bool frozen) {
  std::lock_guard lock(mutex_);
  frozen_ = frozen;
}

std::map<std::string, ProviderChoices::Choice> ProviderChoices::all() const {
  std::lock_guard lock(mutex_);
  return choices_;
}

void ProviderChoices::set(std::map<std::string, Choice> choices) {
  std::lock_guard lock(mutex_);
  choices_ = std::move(choices);
}

}  // namespace taper
