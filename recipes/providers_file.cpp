#include "recipes/providers_file.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "runtime/error.h"
#include "runtime/file.h"

namespace taper {

namespace {

using Json = nlohmann::ordered_json;

std::filesystem::path file_of(const std::filesystem::path& run) { return run / "providers.json"; }

// JSON has no infinity: null is a provider that has nothing for the shape.
Json microseconds(double seconds) { return std::isfinite(seconds) ? Json(1e6 * seconds) : Json(nullptr); }
double seconds(const Json& microseconds) {
  return microseconds.is_null() ? std::numeric_limits<double>::infinity() : 1e-6 * microseconds.get<double>();
}

std::string written(const Choices& choices) {
  Json json = Json::object();
  for (const auto& [key, choice] : choices)
    json[key] = {{"provider", name(choice.provider)},
                 {"own_us", microseconds(choice.own_seconds)},
                 {"vendor_us", microseconds(choice.vendor_seconds)}};
  return json.dump(2) + "\n";
}

Choices parsed(std::string_view text) {
  Choices choices;
  const Json json = Json::parse(text);
  for (const auto& [key, entry] : json.items()) {
    const Provider provider = provider_named(entry.at("provider").get<std::string>());
    if (provider == Provider::automatic) throw UserError("a choice is own or vendor");
    choices[key] = {provider, seconds(entry.at("own_us")), seconds(entry.at("vendor_us"))};
  }
  return choices;
}

}  // namespace

void write_providers(const std::filesystem::path& run, const Choices& choices) {
  if (!choices.empty()) write_file_atomically(file_of(run), written(choices));
}

Choices read_providers(const std::filesystem::path& run) {
  const std::string file = file_of(run).string();
  if (!has_providers(run))
    throw UserError("{}: there is no such file; a run with matmul or convolution = \"auto\" writes it", file);
  try {
    const std::vector<std::byte> bytes = read_file(file);
    return parsed({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  } catch (const Json::exception& error) {
    throw UserError("{}: is not what a run writes there: {}", file, error.what());
  } catch (const UserError& error) {
    throw UserError("{}: is not what a run writes there: {}", file, error.what());
  }
}

bool has_providers(const std::filesystem::path& run) { return std::filesystem::exists(file_of(run)); }

void agree_on_providers(Communicator& ranks, ProviderChoices& choices,
                        const std::function<void()>& rehearse) {
  if (ranks.first()) {
    choices.freeze(false);
    rehearse();
  }
  choices.freeze(true);
  choices.set(parsed(ranks.broadcast(written(choices.all()))));
}

}  // namespace taper
