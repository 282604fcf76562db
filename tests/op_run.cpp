#include "tests/op_run.h"

#include <algorithm>
#include <cstring>

#include "runtime/error.h"

namespace taper::ops {

namespace {

constexpr int64_t kGuard = 64;        // bytes on each side: data keeps the alignment of an allocation
constexpr uint8_t kGuardByte = 0xFF;  // NaN in every floating type: to read a guard shows in the result

// Calls with a value of the C++ type that stands for `type`.
template <typename Use>
void with_type(DType type, Use&& use) {
  switch (type) {
    case DType::f32:
      return use(float{});
    case DType::bf16:
      return use(bf16{});
    case DType::f64:
      return use(double{});
    case DType::i32:
      return use(int32_t{});
    case DType::i64:
      return use(int64_t{});
    case DType::u8:
      return use(uint8_t{});
  }
}

std::vector<uint8_t> encode(const std::vector<double>& values, DType type) {
  std::vector<uint8_t> bytes(values.size() * static_cast<size_t>(size_of(type)));
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    for (size_t i = 0; i < values.size(); ++i) {
      T value;
      if constexpr (std::is_same_v<T, bf16>)
        value = bf16(static_cast<float>(round_to(values[i], type)));
      else
        value = static_cast<T>(values[i]);
      std::memcpy(bytes.data() + i * sizeof(T), &value, sizeof(T));
    }
  });
  return bytes;
}

std::vector<double> decode(const std::vector<uint8_t>& bytes, DType type) {
  std::vector<double> values(bytes.size() / static_cast<size_t>(size_of(type)));
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    for (size_t i = 0; i < values.size(); ++i) {
      T value;
      std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
      if constexpr (std::is_same_v<T, bf16>)
        values[i] = static_cast<float>(value);
      else
        values[i] = static_cast<double>(value);
    }
  });
  return values;
}

/// An argument on the device, between guards.
class Guarded {
 public:
  Guarded(Stream& stream, const Argument& argument, DType type, Place place)
      : stream_(stream),
        type_(element_type(argument.kind, type)),
        front_(kGuard + (place == Place::odd ? size_of(type_) : 0)),
        bytes_(front_ + argument.size * size_of(type_) + kGuard),
        block_(stream.allocator()->allocate(bytes_)) {
    before_.assign(static_cast<size_t>(bytes_), kGuardByte);  // an output starts as NaN, too
    if (argument.role != Role::output) {
      std::vector<uint8_t> values = encode(argument.values, type_);
      std::copy(values.begin(), values.end(), before_.begin() + front_);
    }
    stream_.upload(block_, before_.data(), bytes_);
  }
  ~Guarded() { stream_.allocator()->release(block_, bytes_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  void* data() { return static_cast<uint8_t*>(block_) + front_; }
  DType type() const { return type_; }
  void download() {
    after_.resize(before_.size());
    stream_.download(after_.data(), block_, bytes_);
  }
  bool guards_intact() const {
    return std::equal(before_.begin(), before_.begin() + front_, after_.begin()) &&
           std::equal(before_.end() - kGuard, before_.end(), after_.end() - kGuard);
  }
  bool unchanged() const { return before_ == after_; }
  std::vector<uint8_t> contents() const { return {after_.begin() + front_, after_.end() - kGuard}; }

 private:
  Stream& stream_;
  DType type_;
  int64_t front_, bytes_;  // up to the data; of guards and data
  void* block_;
  std::vector<uint8_t> before_, after_;
};

}  // namespace

DType element_type(Kind kind, DType type) {
  switch (kind) {
    case Kind::activation:
      return type;
    case Kind::accumulator:
      return accumulator(type);
    case Kind::f64:
      return DType::f64;
    case Kind::f32:
      return DType::f32;
    case Kind::bf16:
      return DType::bf16;
    case Kind::i32:
      return DType::i32;
    case Kind::i64:
      return DType::i64;
    case Kind::u8:
      return DType::u8;
  }
  throw Failure("no kind of argument has the number {}", static_cast<int>(kind));
}

Outcome run(Backend& backend, Stream& stream, DType type, const Case& op_case,
            const std::optional<Alias>& alias, Place place) {
  std::map<std::string, std::unique_ptr<Guarded>> memory;
  Pointers pointers;
  for (const Argument& argument : op_case.arguments) {
    if (alias && argument.name == alias->first) continue;
    auto& guarded = memory[argument.name] = std::make_unique<Guarded>(stream, argument, type, place);
    pointers.set(argument.name, guarded->data());
  }
  if (alias) pointers.set(alias->first, pointers[alias->second]);
  op_case.call(backend, stream, type, pointers);
  stream.synchronize();
  Outcome outcome;
  for (const Argument& argument : op_case.arguments) {
    bool aliased = alias && argument.name == alias->first;
    Guarded& guarded = *memory.at(aliased ? alias->second : argument.name);
    guarded.download();
    if (!guarded.guards_intact())
      outcome.complaints.push_back(fmt::format("the memory around {} was written", argument.name));
    bool overwritten = alias && argument.name == alias->second;
    if (argument.role == Role::input) {
      if (!overwritten && !guarded.unchanged())
        outcome.complaints.push_back(fmt::format("the input {} was changed", argument.name));
      continue;
    }
    outcome.bytes[argument.name] = guarded.contents();
    outcome.values[argument.name] = decode(outcome.bytes[argument.name], guarded.type());
  }
  return outcome;
}

}  // namespace taper::ops
