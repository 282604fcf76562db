#include "layers/weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace taper {

namespace {

// The shape on disk.
Shape file_shape(const Parameter& p) {
  if (p.role != Role::filter) return p.shape;
  return {p.shape[0], p.shape[3], p.shape[1], p.shape[2]};
}

// For each element in the file's order, its index in memory.
template <typename F>
void each_element(const Parameter& p, F f) {
  if (p.role != Role::filter) {
    for (int64_t i = 0; i < p.size; ++i) f(i, i);
    return;
  }
  int64_t pixels = p.shape[1] * p.shape[2], channels = p.shape[3], in_file = 0;
  for (int64_t k = 0; k < p.shape[0]; ++k)
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t i = 0; i < pixels; ++i) f(in_file++, (k * pixels + i) * channels + c);
}

template <typename T>
std::vector<std::byte> to_file(const Parameter& p, const std::vector<double>& values) {
  std::vector<std::byte> bytes(values.size() * sizeof(T));
  each_element(p, [&](int64_t in_file, int64_t in_memory) {
    T value = static_cast<T>(values[static_cast<size_t>(in_memory)]);
    std::memcpy(bytes.data() + static_cast<size_t>(in_file) * sizeof(T), &value, sizeof(T));
  });
  return bytes;
}

template <typename T>
std::vector<double> from_file(const Parameter& p, std::span<const std::byte> bytes) {
  std::vector<double> values(static_cast<size_t>(p.size));
  each_element(p, [&](int64_t in_file, int64_t in_memory) {
    T value;  // the file need not align it
    std::memcpy(&value, bytes.data() + static_cast<size_t>(in_file) * sizeof(T), sizeof(T));
    if constexpr (std::is_same_v<T, bf16>)
      values[static_cast<size_t>(in_memory)] = static_cast<float>(value);
    else
      values[static_cast<size_t>(in_memory)] = value;
  });
  return values;
}

std::vector<double> from_file(const Parameter& p, const TensorBytes& tensor) {
  switch (tensor.dtype) {
    case DType::f32:
      return from_file<float>(p, tensor.bytes);
    case DType::bf16:
      return from_file<bf16>(p, tensor.bytes);
    case DType::f64:
      return from_file<double>(p, tensor.bytes);
    default:
      throw Failure("{} is of {}", tensor.name, name(tensor.dtype));
  }
}

// "missing a, b and 7 more"; nothing for none.
void append(std::vector<std::string>& complaints, const char* what, const std::vector<std::string>& names) {
  constexpr size_t kShown = 4;
  if (names.empty()) return;
  size_t shown = std::min(kShown, names.size());
  std::string text =
      fmt::format("{} {}", what, fmt::join(names.begin(), names.begin() + static_cast<long>(shown), ", "));
  if (shown < names.size()) text += fmt::format(" and {} more", names.size() - shown);
  complaints.push_back(std::move(text));
}

}  // namespace

std::vector<double> host_values(Stream& stream, const Parameter& parameter) {
  Tensor value = parameter.value();
  if (value.dtype() == DType::f64) return value.host<double>(stream);
  std::vector<float> values = value.host<float>(stream);
  return {values.begin(), values.end()};
}

void set_values(Stream& stream, Parameter& parameter, std::span<const double> values) {
  TAPER_CHECK(static_cast<int64_t>(values.size()) == parameter.size, "{} values for {}, which has {}",
              values.size(), parameter.name, parameter.size);
  Tensor value = parameter.value();
  if (value.dtype() == DType::f64) {
    stream.upload(value.data(), values.data(), value.bytes());
  } else {
    std::vector<float> rounded(values.begin(), values.end());
    stream.upload(value.data(), rounded.data(), value.bytes());
  }
  parameter.changed();
}

void copy_weights(Stream& stream, const ParameterStore& store, const std::string& prefix, HostTensors& to) {
  DType type = store.values().dtype();
  for (const Parameter& p : store.all()) {
    std::vector<double> values = host_values(stream, p);
    to.contents.push_back(type == DType::f64 ? to_file<double>(p, values) : to_file<float>(p, values));
    to.tensors.push_back({prefix + p.name, type, file_shape(p), to.contents.back()});
  }
}

void write_weights(const std::filesystem::path& path, Stream& stream, const ParameterStore& store,
                   const std::map<std::string, std::string>& metadata) {
  HostTensors host;
  copy_weights(stream, store, "", host);
  write_safetensors(path, std::move(host.tensors), metadata);
}

void read_weights(const std::filesystem::path& path, Stream& stream, ParameterStore& store) {
  set_weights(SafetensorsFile::read(path), path.string(), "", stream, store);
}

void set_weights(const SafetensorsFile& file, const std::string& shown, const std::string& prefix,
                 Stream& stream, ParameterStore& store) {
  set_weights(file.tensors(), shown, prefix, stream, store);
}

void set_weights(std::span<const TensorBytes> tensors, const std::string& shown, const std::string& prefix,
                 Stream& stream, ParameterStore& store) {
  std::map<std::string_view, const TensorBytes*> by_name;
  for (const TensorBytes& tensor : tensors) by_name[tensor.name] = &tensor;
  std::vector<std::string> missing, unexpected, misshapen, mistyped, infinite;
  std::vector<std::vector<double>> values;
  for (const Parameter& p : store.all()) {
    const auto found = by_name.find(prefix + p.name);
    const TensorBytes* tensor = found == by_name.end() ? nullptr : found->second;
    if (tensor == nullptr) {
      missing.push_back(p.name);
    } else if (tensor->shape != file_shape(p)) {
      misshapen.push_back(fmt::format("{} is {} and should be {}", p.name, to_string(tensor->shape),
                                      to_string(file_shape(p))));
    } else if (tensor->dtype != DType::f32 && tensor->dtype != DType::bf16 && tensor->dtype != DType::f64) {
      mistyped.push_back(fmt::format("{} of {}", p.name, name(tensor->dtype)));
    } else {
      values.push_back(from_file(p, *tensor));
      if (!std::all_of(values.back().begin(), values.back().end(), [](double v) { return std::isfinite(v); }))
        infinite.push_back(p.name);
    }
  }
  for (const TensorBytes& tensor : tensors)
    if (tensor.name.starts_with(prefix) && store.find(tensor.name.substr(prefix.size())) == nullptr &&
        !tensor.name.ends_with(".num_batches_tracked"))
      unexpected.push_back(tensor.name);
  std::vector<std::string> complaints;
  append(complaints, "missing:", missing);
  append(complaints, "unexpected:", unexpected);
  append(complaints, "another shape:", misshapen);
  append(complaints, "neither f32, bf16 nor f64:", mistyped);
  append(complaints, "NaN or infinity in", infinite);
  if (!complaints.empty())
    throw UserError(
        "{} does not hold this network's weights ({}); the network's kind, depth, widths and classes "
        "must be those of the file",
        shown, fmt::join(complaints, "; "));
  size_t i = 0;
  for (Parameter& p : store.all()) set_values(stream, p, values[i++]);
}

}  // namespace taper
