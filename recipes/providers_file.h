#pragma once
// providers.json, in which a run keeps what Provider::automatic chose.

#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "kernels/providers.h"
#include "runtime/communicator.h"

namespace taper {

using Choices = std::map<std::string, ProviderChoices::Choice>;

/// Writes `choices` to the run's folder, in the place of an earlier file; nothing where there are none.
void write_providers(const std::filesystem::path& run, const Choices& choices);
/// UserError, with the file, where the folder has none or it is no such file.
Choices read_providers(const std::filesystem::path& run);
bool has_providers(const std::filesystem::path& run);

/// Rank 0 calls `rehearse`, which meets the shapes that are to come and times them; then all ranks have its
/// choices, frozen, so that a shape that it has not met is Taper's own on all of them.
void agree_on_providers(Communicator& ranks, ProviderChoices& choices, const std::function<void()>& rehearse);

}  // namespace taper
