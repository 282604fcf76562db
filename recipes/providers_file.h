#pragma once
// providers.json, in which a run keeps what Provider::automatic chose.

#include <filesystem>
#include <map>
#include <string>

#include "kernels/providers.h"

namespace taper {

using Choices = std::map<std::string, ProviderChoices::Choice>;

/// Writes `choices` to the run's folder, in the place of an earlier file; nothing where there are none.
void write_providers(const std::filesystem::path& run, const Choices& choices);
/// UserError, with the file, where the folder has none or it is no such file.
Choices read_providers(const std::filesystem::path& run);
bool has_providers(const std::filesystem::path& run);

}  // namespace taper
