#include "recipes/ranks.h"

#include <nlohmann/json.hpp>

#include "runtime/error.h"
#include "runtime/file.h"
#include "runtime/library_sum.h"
#include "runtime/manifest.h"

namespace taper {

namespace {

// What must be the same on every rank, by name; JSON goes from rank to rank.
using Facts = std::map<std::string, std::string>;

std::string checksum(std::span<const std::byte> bytes) { return record_of({&bytes, 1}).checksum; }

// Samples from all over a split, as this machine reads and decodes them.
std::string samples_of(const Data& data, Split split, Engine& engine) {
  constexpr int64_t kPlaces = 16, kSamples = 4;
  int64_t batches = (data.size(split) + kSamples - 1) / kSamples;
  std::string sums;
  engine.team->run_one([&](Stream& stream) {
    for (int64_t i = 0; i < kPlaces; ++i) {
      Tape tape(*engine.backend, stream, engine.type);
      auto batch = data.plain_batches(split, kSamples, 0, i * batches / kPlaces)->next();
      ShardInput input = batch->upload(tape, 0, batch->count);
      if (input.count == 0) continue;
      for (const Tensor* tensor : {&input.input->value, &input.labels}) {
        std::vector<std::byte> bytes(static_cast<size_t>(tensor->bytes()));
        stream.download(bytes.data(), tensor->data(), tensor->bytes());
        sums += checksum(bytes);
      }
    }
  });
  return checksum(bytes_of(sums));
}

Facts facts_of(const Configuration& configuration, const Data& data, Engine& engine) {
  Facts facts = engine.backend->versions();
  facts["program"] = fmt::format("{} {}", TAPER_VERSION, checksum(read_file("/proc/self/exe")));
  facts["configuration"] = write_configuration(configuration);
  facts["samples"] = fmt::format("{} training and {} test samples", data.facts().train, data.facts().test);
  facts["data"] = data.identity();
  facts["training data"] = samples_of(data, Split::train, engine);
  facts["test data"] = samples_of(data, Split::test, engine);
  return facts;
}

std::string sum_of(const HostTensors& tensors) {
  std::string sums;
  for (const std::vector<std::byte>& content : tensors.contents) sums += checksum(content);
  return checksum(bytes_of(sums));
}

// Of this rank, beside rank 0; empty where nothing differs.
std::string difference(int64_t rank, const Facts& first, const Facts& own) {
  for (const auto& [name, value] : first) {
    auto found = own.find(name);
    std::string here = found == own.end() ? "missing" : found->second;
    if (here == value) continue;
    if (name == "configuration")
      return fmt::format(
          "rank {} was started with another configuration than rank 0 ({}); start all ranks with the same",
          rank,
          first_difference(parse_configuration(value, "rank 0's"), parse_configuration(here, "this rank's")));
    if (name == "program")
      return fmt::format(
          "rank {} runs another build of Taper ({}) than rank 0 ({}); start the same on all machines", rank,
          here, value);
    return fmt::format(
        "{} of rank {} ({}) differs from rank 0's ({}); ranks must have the same data, libraries and "
        "instruction set "
        "to give the same bits",
        name, rank, here, value);
  }
  return "";
}

}  // namespace

void require_possible_ranks(const Communicator& ranks, const Configuration& configuration) {
  int64_t count = ranks.ranks(), shards = configuration.shards;
  if (count == 1) return;
  if (shards % count != 0) {  // shards is a power of two
    std::vector<int64_t> valid;
    for (int64_t i = 1; i <= shards; i *= 2) valid.push_back(i);
    throw UserError(
        "{} ranks cannot divide {} shards evenly; start {}{}, or set shards to a larger power of two", count,
        shards, fmt::join(valid, " or "), shards == 1 ? " rank" : " ranks");
  }
}

void require_possible_reduction(const Configuration& configuration, Communicator& ranks) {
  if (configuration.reduction != "fast" || ranks.ranks() == 1) return;
  if (configuration.runs("imitate") && configuration.imitate.parallel == "units")
    throw UserError(
        "reduction = \"fast\" and imitate.parallel = \"units\": the ranks that train a unit have no sum of a "
        "library's; use reduction = \"exact\", or imitate.parallel = \"data\"");
  if (library_sum(ranks) == nullptr)
    throw UserError(
        "reduction = \"fast\" is a sum by MPI or NCCL, and these ranks are connected by TCP alone; start "
        "them "
        "with mpirun or srun, train on GPUs, or use reduction = \"exact\"");
}

void require_equal_weights(Models& models, Engine& engine) {
  Communicator& ranks = engine.ranks;
  if (ranks.ranks() == 1) return;
  const std::vector<std::string> sums = ranks.all_gather(sum_of(models.save()));
  for (size_t rank = 1; rank < sums.size(); ++rank)
    if (sums[rank] != sums[0])
      throw Failure(
          "the weights of rank {} are no longer those of rank 0: the library that connects the ranks has not "
          "given "
          "all of them the same sum; use reduction = \"exact\"",
          rank);
}

void require_equal_ranks(const Configuration& configuration, const Data& data, Engine& engine) {
  Communicator& ranks = engine.ranks;
  if (ranks.ranks() == 1) return;
  Facts own = facts_of(configuration, data, engine);
  Facts first = nlohmann::json::parse(ranks.broadcast(nlohmann::json(own).dump())).get<Facts>();
  for (const std::string& sentence : ranks.all_gather(difference(ranks.rank(), first, own)))
    if (!sentence.empty()) throw UserError("{}", sentence);
}

RankGroups::RankGroups(Engine& engine, int64_t count)
    : count(count),
      within(engine.ranks,
             engine.ranks.rank() / (engine.ranks.ranks() / count) * (engine.ranks.ranks() / count), 1,
             engine.ranks.ranks() / count),
      across(engine.ranks, engine.ranks.rank() % (engine.ranks.ranks() / count), engine.ranks.ranks() / count,
             count),
      connected(count == 1 ? nullptr : engine.backend->connect(within)),
      ranks(count == 1  ? engine.ranks
            : connected ? *connected
                        : static_cast<Communicator&>(within)) {}

std::optional<Checkpoint> share_checkpoint(Communicator& ranks, std::optional<Checkpoint> own) {
  if (ranks.ranks() == 1) return own;
  nlohmann::json head;
  if (own)
    head = {{"name", own->name},
            {"sequence", own->sequence},
            {"identity", own->identity},
            {"metadata", own->metadata}};
  head = nlohmann::json::parse(ranks.broadcast(head.dump()));
  if (head.is_null()) return std::nullopt;
  auto file = [&](const char* name, const SafetensorsFile* file) {
    std::string content;
    if (file != nullptr)
      content.assign(reinterpret_cast<const char*>(file->content().data()), file->content().size());
    content = ranks.broadcast(content);
    auto bytes = bytes_of(content);
    return SafetensorsFile::parse({bytes.begin(), bytes.end()}, head["name"].get<std::string>() + "/" + name);
  };
  SafetensorsFile weights = file("weights.safetensors", own ? &own->weights : nullptr);
  SafetensorsFile state = file("state.safetensors", own ? &own->state : nullptr);
  if (own) return own;
  return Checkpoint{.name = head["name"],
                    .sequence = head["sequence"],
                    .score = {},
                    .identity = head["identity"],
                    .metadata = head["metadata"],
                    .weights = std::move(weights),
                    .state = std::move(state)};
}

}  // namespace taper
