#include "runtime/manifest.h"

#include <xxhash.h>

#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "runtime/error.h"

namespace taper {
namespace {

using Json = nlohmann::json;

constexpr const char* kFormat = "taper checkpoint";
constexpr int64_t kVersion = 1;

int64_t whole_number(const Json& value) {
  // get<int64_t> would convert a fraction, and wrap what is too large.
  if (!value.is_number_integer() || value < 0 || value > INT64_MAX)
    throw Json::type_error::create(302, "not a whole number from 0", &value);
  return value.get<int64_t>();
}

}  // namespace

FileRecord record_of(Pieces pieces) {
  std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), XXH3_freeState);
  TAPER_CHECK(state && XXH3_128bits_reset(state.get()) == XXH_OK, "no memory for a checksum");
  FileRecord record;
  for (auto piece : pieces) {
    XXH3_128bits_update(state.get(), piece.data(), piece.size());
    record.size += static_cast<int64_t>(piece.size());
  }
  XXH128_hash_t hash = XXH3_128bits_digest(state.get());
  record.checksum = fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
  return record;
}

std::string encode_manifest(const Manifest& manifest) {
  TAPER_CHECK(manifest.sequence >= 0, "a checkpoint's sequence is {}", manifest.sequence);
  TAPER_CHECK(!manifest.score || std::isfinite(*manifest.score), "the score of a checkpoint is {}",
              *manifest.score);
  Json json = {{"format", kFormat},
               {"version", kVersion},
               {"identity", manifest.identity},
               {"sequence", manifest.sequence},
               {"metadata", manifest.metadata},
               {"files", Json::object()}};
  if (manifest.score) json["score"] = *manifest.score;
  for (const auto& [name, record] : manifest.files)
    json["files"][name] = {{"size", record.size}, {"xxh3_128", record.checksum}};
  try {
    std::string content = json.dump();
    std::span<const std::byte> piece = bytes_of(content);
    json["checksum"] = record_of(Pieces(&piece, 1)).checksum;
    return json.dump(2) + "\n";
  } catch (const Json::type_error&) {
    throw Failure("a name or value in the metadata of checkpoint {} is not UTF-8.", manifest.sequence);
  }
}

Manifest decode_manifest(std::string_view text, const std::string& shown) {
  Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) throw UserError("{} is not valid JSON: it is truncated or was altered.", shown);
  Manifest manifest;
  try {
    if (json.at("format") != kFormat) throw UserError("{} does not belong to a checkpoint of Taper.", shown);
    if (int64_t version = whole_number(json.at("version")); version != kVersion)
      throw UserError("{} has format version {}, and this Taper reads version {}.", shown, version, kVersion);
    manifest.identity = json.at("identity").get<std::string>();
    manifest.sequence = whole_number(json.at("sequence"));
    if (json.contains("score")) manifest.score = json.at("score").get<double>();
    manifest.metadata = json.at("metadata").get<std::map<std::string, std::string>>();
    for (const auto& [name, record] : json.at("files").items())
      manifest.files[name] = {whole_number(record.at("size")), record.at("xxh3_128").get<std::string>()};
  } catch (const Json::exception&) {
    throw UserError("{} lacks an entry, or has one of a wrong type: it was altered.", shown);
  }
  // Comparing the whole text also finds entries that are there twice or do not belong.
  if (encode_manifest(manifest) != text)
    throw UserError("{} was altered: its checksum does not match.", shown);
  return manifest;
}

}  // namespace taper
