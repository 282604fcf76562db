#pragma once
// A network's tensors as host values and as safetensors files with torchvision's names and layout.

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "autograd/parameter.h"

namespace taper {

/// A parameter's values on the host, in its layout in memory; exact, as every type fits in double.
std::vector<double> host_values(Stream& stream, const Parameter& parameter);
/// Sets a parameter to `values`, rounded to its type; its derived copies are then stale. As many values as
/// elements: Failure.
void set_values(Stream& stream, Parameter& parameter, std::span<const double> values);

/// Writes parameters and statistics atomically, in the store's type (f32, or f64 on the reference), filters
/// as [k, c, r, s]. torchvision's model.load_state_dict(strict=True) takes the file: PyTorch itself fills in
/// num_batches_tracked, which is not written. Errors: write_file_atomically's.
void write_weights(const std::filesystem::path& path, Stream& stream, const ParameterStore& store,
                   const std::map<std::string, std::string>& metadata = {});

/// Sets every tensor of an allocated store from a file of f32, bf16 or f64 (rounded to the store's type).
/// num_batches_tracked is ignored. UserError, before any value is changed, names the tensors that are
/// missing, unexpected, of another shape or type, or not finite.
void read_weights(const std::filesystem::path& path, Stream& stream, ParameterStore& store);

}  // namespace taper
