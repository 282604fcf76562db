#include "recipes/text/squad.h"

#include <unicode/locid.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "recipes/text/unicode.h"
#include "runtime/error.h"
#include "runtime/file.h"

namespace taper {

namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kLargestFile = int64_t{1} << 30;

/// A part of the file with the way that leads to it, for errors.
struct Part {
  const Json& json;
  std::string place;

  const Json& member(const char* name) const {
    if (!json.is_object() || !json.contains(name))
      throw UserError(
          "{} has no \"{}\"; a SQuAD file has data, paragraphs, context, qas, id, question, answers", place,
          name);
    return json.at(name);
  }
  const std::string& text(const char* name) const {
    const Json& found = member(name);
    if (!found.is_string()) throw UserError("{}: \"{}\" is not a text", place, name);
    return found.get_ref<const std::string&>();
  }
  std::vector<Part> list(const char* name) const {
    const Json& found = member(name);
    if (!found.is_array()) throw UserError("{}: \"{}\" is not a list", place, name);
    std::vector<Part> parts;
    for (const Json& element : found)
      parts.push_back({element, fmt::format("{}, {}[{}]", place, name, parts.size())});
    return parts;
  }
};

/// The byte at which each character begins, and the end.
std::vector<int64_t> character_bytes(std::string_view text) {
  std::vector<int64_t> bytes = {0};
  for (int64_t at = 0; at < std::ssize(text); bytes.push_back(at)) next_character(text, at);
  return bytes;
}

SquadAnswer read_answer(const Part& part, const std::string& id, const std::string& context,
                        const std::vector<int64_t>& bytes) {
  const std::string& text = part.text("text");
  const Json& start = part.member("answer_start");
  if (!start.is_number_integer()) throw UserError("{}: \"answer_start\" is not a whole number", part.place);
  const auto character = start.get<int64_t>();
  const bool inside = character >= 0 && character < std::ssize(bytes);
  const int64_t begin = inside ? bytes[static_cast<size_t>(character)] : 0;
  if (!inside || text.empty() || context.compare(static_cast<size_t>(begin), text.size(), text) != 0)
    throw UserError(
        "{}: the answer \"{}\" to the question \"{}\" is not at character {} of its context; correct "
        "answer_start, "
        "which counts characters from 0, or remove the question",
        part.place, text, id, character);
  return {text, begin, begin + std::ssize(text)};
}

// As Python's str.isspace.
bool is_space(int32_t c) { return u_isUWhiteSpace(c) || (c >= 0x1C && c <= 0x1F); }

// As \w in Python: letters, whatever is a number, and the underscore.
bool is_word(int32_t c) {
  return c == '_' || u_isalpha(c) || u_getIntPropertyValue(c, UCHAR_NUMERIC_TYPE) != U_NT_NONE;
}

std::map<std::string, int64_t> count_words(const std::string& normalized, int64_t& total) {
  std::map<std::string, int64_t> counts;
  total = 0;
  for (size_t begin = 0; begin < normalized.size();) {
    const size_t end = std::min(normalized.find(' ', begin), normalized.size());
    ++counts[normalized.substr(begin, end - begin)];
    ++total;
    begin = end + 1;
  }
  return counts;
}

SquadScore compare(const std::string& prediction, const std::string& answer, bool version2) {
  SquadScore score{.exact = prediction == answer ? 1.0 : 0.0};
  int64_t predicted = 0, right = 0, same = 0;
  const auto ours = count_words(prediction, predicted), theirs = count_words(answer, right);
  if (version2 && (predicted == 0 || right == 0)) return {score.exact, score.exact};
  for (const auto& [word, count] : ours)
    if (const auto found = theirs.find(word); found != theirs.end()) same += std::min(count, found->second);
  if (same > 0) {
    const double precision = static_cast<double>(same) / static_cast<double>(predicted);
    const double recall = static_cast<double>(same) / static_cast<double>(right);
    score.f1 = 2 * precision * recall / (precision + recall);
  }
  return score;
}

}  // namespace

Squad read_squad(const std::filesystem::path& path) {
  const std::vector<std::byte> bytes = read_file(path, kLargestFile);
  return parse_squad({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path.string());
}

Squad parse_squad(std::string_view json, const std::string& shown) {
  if (const int64_t at = invalid_utf8(json); at >= 0)
    throw UserError("{} is not UTF-8 at byte {}; convert it", shown, at);
  Json document;
  try {
    document = Json::parse(json);
  } catch (const Json::parse_error& error) {
    throw UserError("{} is not JSON at byte {}; SQuAD's files are", shown, error.byte);
  } catch (const Json::out_of_range& error) {
    throw UserError("{} has a number that is too large: {}", shown, error.what());
  }
  Squad squad;
  std::set<std::string_view> ids;  // of the document's strings
  for (const Part& article : Part{document, shown}.list("data"))
    for (const Part& paragraph : article.list("paragraphs")) {
      const auto context = std::make_shared<const std::string>(paragraph.text("context"));
      const std::vector<int64_t> bytes = character_bytes(*context);
      for (const Part& question : paragraph.list("qas")) {
        SquadQuestion& read = squad.questions.emplace_back();
        read = {question.text("id"), question.text("question"), context, {}};
        if (!ids.insert(question.text("id")).second)
          throw UserError("{}: the id \"{}\" is there twice; each question has its own", question.place,
                          read.id);
        bool impossible = false;
        if (question.json.contains("is_impossible")) {
          const Json& said = question.member("is_impossible");
          if (!said.is_boolean())
            throw UserError("{}: \"is_impossible\" is neither true nor false", question.place);
          impossible = said.get<bool>();
          squad.version2 = true;
        }
        if (impossible) continue;
        for (const Part& answer : question.list("answers"))
          read.answers.push_back(read_answer(answer, read.id, *context, bytes));
        if (read.answers.empty())
          throw UserError(
              "{}: the question \"{}\" has no answer; in SQuAD 2.0 it then says \"is_impossible\": true",
              question.place, read.id);
      }
    }
  if (squad.questions.empty()) throw UserError("{} has no questions", shown);
  return squad;
}

std::string normalize_answer(std::string_view text) {
  std::string lower;
  icu::UnicodeString::fromUTF8(icu::StringPiece(text.data(), static_cast<int32_t>(text.size())))
      .toLower(icu::Locale::getRoot())
      .toUTF8String(lower);
  std::erase_if(lower, [](unsigned char c) { return c < 0x80 && std::ispunct(c) != 0; });
  std::string result, word;
  bool space = false;  // before what comes next
  const auto append = [&](std::string_view part) {
    if (space && !result.empty()) result += ' ';
    space = false;
    result += part;
  };
  const auto end_word = [&] {
    if (word == "a" || word == "an" || word == "the")
      space = true;
    else if (!word.empty())
      append(word);
    word.clear();
  };
  for (int64_t at = 0; at < std::ssize(lower);) {
    const int64_t begin = at;
    const int32_t c = next_character(lower, at);
    const std::string_view character =
        std::string_view(lower).substr(static_cast<size_t>(begin), static_cast<size_t>(at - begin));
    if (is_word(c)) {
      word += character;
      continue;
    }
    end_word();
    if (is_space(c))
      space = true;
    else
      append(character);
  }
  end_word();
  return result;
}

SquadScore squad_score(std::string_view prediction, const SquadQuestion& question, bool version2) {
  const std::string ours = normalize_answer(prediction);
  std::vector<std::string> answers;
  for (const SquadAnswer& answer : question.answers) {
    std::string normalized = normalize_answer(answer.text);
    if (!version2 || !normalized.empty()) answers.push_back(std::move(normalized));
  }
  if (answers.empty()) answers.emplace_back();
  SquadScore best;
  for (const std::string& answer : answers) {
    const SquadScore score = compare(ours, answer, version2);
    best = {std::max(best.exact, score.exact), std::max(best.f1, score.f1)};
  }
  return best;
}

}  // namespace taper
