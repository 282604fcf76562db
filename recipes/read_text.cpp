// taper embed and taper fill-mask: what a BERT makes of text.

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "recipes/commands.h"
#include "recipes/text_model.h"
#include "runtime/error.h"

namespace taper {

namespace {

std::vector<int32_t> ids_of(const std::vector<Token>& tokens) {
  std::vector<int32_t> ids;
  ids.reserve(tokens.size());
  for (const Token& token : tokens) ids.push_back(token.id);
  return ids;
}

void print(const fmt::memory_buffer& text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size())
    throw Failure("standard output could not be written");
}

}  // namespace

void embed_command(const ReadArguments& arguments) {
  TextModel model(arguments.model, arguments.network, BertSpec::Head::encoder, arguments.device);
  const auto width = static_cast<size_t>(model.width());
  const auto encode = [&](TextBatch& batch, std::string_view line, int64_t number) {
    const std::vector<int32_t> ids = ids_of(model.encode(line, number, arguments.truncate));
    constexpr int32_t kUnknown = 0;  // a sequence has a label
    batch.add(number, ids, std::vector<int32_t>(ids.size()), {}, std::span(&kUnknown, 1));
  };
  read_lines(model.engine(), model.network(), encode,
             [&](const TextBatch& batch, const std::vector<float>& output) {
               fmt::memory_buffer out;
               for (size_t i = 0; i < static_cast<size_t>(batch.count); ++i) {
                 std::vector<double> mean(width);
                 const auto tokens = static_cast<double>(batch.offsets[i + 1] - batch.offsets[i]);
                 for (int64_t row = batch.offsets[i]; row < batch.offsets[i + 1]; ++row)
                   for (size_t j = 0; j < width; ++j) mean[j] += output[static_cast<size_t>(row) * width + j];
                 for (double& value : mean) value /= tokens;
                 if (arguments.json)
                   fmt::format_to(std::back_inserter(out), "[{:.7g}]\n", fmt::join(mean, ","));
                 else
                   fmt::format_to(std::back_inserter(out), "{:.7g}\n", fmt::join(mean, " "));
               }
               print(out);
             });
}

void fill_mask_command(const ReadArguments& arguments, int64_t top) {
  TextModel model(arguments.model, arguments.network, BertSpec::Head::masked_lm, arguments.device);
  const Vocabulary& vocabulary = model.vocabulary();
  const auto words = static_cast<size_t>(vocabulary.size());
  const auto encode = [&](TextBatch& batch, std::string_view line, int64_t number) {
    const std::vector<int32_t> ids = ids_of(model.encode(line, number, arguments.truncate));
    std::vector<int32_t> places;
    for (size_t i = 0; i < ids.size(); ++i)
      if (ids[i] == vocabulary.mask) places.push_back(static_cast<int32_t>(i));
    if (places.empty())
      throw UserError("standard input: line {} has no [MASK] to fill; write one for the word to guess",
                      number);
    batch.add(number, ids, std::vector<int32_t>(ids.size()), places, std::vector<int32_t>(places.size()));
  };
  read_lines(model.engine(), model.network(), encode,
             [&](const TextBatch& batch, const std::vector<float>& output) {
               const size_t classes =
                   output.size() /
                   batch.places.size();  // of the network, which may have some that the vocabulary lacks
               fmt::memory_buffer out;
               for (size_t i = 0; i < static_cast<size_t>(batch.count); ++i)
                 for (int64_t k = batch.mask_offsets[i]; k < batch.mask_offsets[i + 1]; ++k) {
                   const std::span<const float> logits =
                       std::span(output).subspan(static_cast<size_t>(k) * classes, words);
                   std::vector<int32_t> order(words);
                   std::iota(order.begin(), order.end(), 0);
                   const auto shown = order.begin() + std::min<int64_t>(top, std::ssize(order));
                   std::partial_sort(order.begin(), shown, order.end(), [&](int32_t a, int32_t b) {
                     const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
                     return x != y ? x > y : a < b;
                   });
                   const double most = logits[static_cast<size_t>(order[0])];
                   double sum = 0;
                   for (const float logit : logits) sum += std::exp(logit - most);
                   nlohmann::ordered_json row = {
                       {"line", batch.samples[i]}, {"mask", k - batch.mask_offsets[i] + 1}, {"words", {}}};
                   std::vector<std::string> cells;
                   for (auto id = order.begin(); id != shown; ++id) {
                     const double probability = std::exp(logits[static_cast<size_t>(*id)] - most) / sum;
                     const std::string& word = vocabulary.token(*id);
                     row["words"].push_back({{"id", *id}, {"token", word}, {"probability", probability}});
                     cells.push_back(fmt::format("{} {:.4f}", word, probability));
                   }
                   if (arguments.json)
                     fmt::format_to(std::back_inserter(out), "{}\n", row.dump());
                   else
                     fmt::format_to(std::back_inserter(out), "{}\n", fmt::join(cells, "\t"));
                 }
               print(out);
             });
}

}  // namespace taper
