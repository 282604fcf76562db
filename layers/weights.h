#pragma once
// A network's tensors as host values and as safetensors files with torchvision's names and layout.

#include <deque>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "autograd/parameter.h"
#include "runtime/safetensors.h"

namespace taper {

/// A parameter's values on the host, in its layout in memory; exact, as every type fits in double.
std::vector<double> host_values(Stream& stream, const Parameter& parameter);
/// Sets a parameter to `values`, rounded to its type; its derived copies are then stale. As many values as
/// elements: Failure.
void set_values(Stream& stream, Parameter& parameter, std::span<const double> values);

/// Tensors copied to the host in a file's layout and order of names, with the memory they view.
struct HostTensors {
  std::deque<std::vector<std::byte>> contents;
  std::vector<TensorBytes> tensors;
};

/// Appends all parameters and statistics, named with `prefix` before them, in the store's type (f32, or f64
/// on the reference), filters as [k, c, r, s].
void copy_weights(Stream& stream, const ParameterStore& store, const std::string& prefix, HostTensors& to);

/// Sets every tensor of an allocated store from those of a file (f32, bf16 or f64, rounded to the store's
/// type) whose names start with `prefix`. num_batches_tracked is ignored. UserError, before any value is
/// changed, names `shown` (the file) and the tensors that are missing, unexpected, of another shape or type,
/// or not finite.
void set_weights(const SafetensorsFile& file, const std::string& shown, const std::string& prefix,
                 Stream& stream, ParameterStore& store);

/// The same from tensors in memory; `shown` stands for them in errors.
void set_weights(std::span<const TensorBytes> tensors, const std::string& shown, const std::string& prefix,
                 Stream& stream, ParameterStore& store);

/// copy_weights as a file, atomically. torchvision's model.load_state_dict(strict=True) takes it: PyTorch
/// itself fills in num_batches_tracked, which is not written. Errors: write_file_atomically's.
void write_weights(const std::filesystem::path& path, Stream& stream, const ParameterStore& store,
                   const std::map<std::string, std::string>& metadata = {});

/// set_weights from a file without a prefix.
void read_weights(const std::filesystem::path& path, Stream& stream, ParameterStore& store);

}  // namespace taper
