// SentencePiece behind C functions; no exception leaves this file.
#include "bpe.h"

extern "C" {
#include "../src/error.h"
}

#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <unordered_map>
#include <vector>

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

struct gdni_bpe {
    sentencepiece::SentencePieceProcessor processor;
    std::vector<std::string> pieces; // bytes of each token
};

namespace {

// SentencePiece writes a space as U+2581.
const char kSpace[] = "\xe2\x96\x81";

gdn_status fail(const char *path, const char *what, const std::string &why) {
    std::string line = why;
    for (char &c : line)
        if (static_cast<unsigned char>(c) < 32)
            c = ' ';
    return gdni_fail(GDN_STATUS_BAD_FILE, "%s: %s (%.200s)", path, what, line.c_str());
}

// Runs body and turns exceptions into a status.
template <class Body>
gdn_status guarded(const char *path, Body body) {
    try {
        return body();
    } catch (const std::bad_alloc &) {
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "%s: no memory for the tokenizer", path);
    } catch (const std::exception &e) {
        return fail(path, "the tokenizer failed", e.what());
    }
}

template <class T>
bool copy_out(const T *data, size_t count, void **out) {
    *out = std::malloc(count ? count * sizeof(T) : 1);
    if (*out && count)
        std::memcpy(*out, data, count * sizeof(T));
    return *out != nullptr;
}

// The lines of a text, with or without their ends.
class Lines : public sentencepiece::SentenceIterator {
  public:
    Lines(const char *text, size_t bytes, bool keep_end)
        : next_(text), end_(text + bytes), keep_end_(keep_end) {
        Next();
    }
    bool done() const override {
        return done_;
    }
    void Next() override {
        done_ = next_ == end_;
        if (done_)
            return;
        const void *mark = std::memchr(next_, '\n', end_ - next_);
        const char *last = mark ? static_cast<const char *>(mark) : end_;
        line_.assign(next_, last - next_ + (mark && keep_end_));
        next_ = mark ? last + 1 : end_;
    }
    const std::string &value() const override {
        return line_;
    }
    sentencepiece::util::Status status() const override {
        return sentencepiece::util::Status();
    }

  private:
    const char *next_, *end_;
    const bool keep_end_;
    bool done_ = false;
    std::string line_;
};

std::string piece_bytes(const sentencepiece::SentencePieceProcessor &processor, int id) {
    const std::string &piece = processor.IdToPiece(id);
    if (processor.IsByte(id)) // "<0x0A>"
        return std::string(1, static_cast<char>(std::strtol(piece.c_str() + 3, nullptr, 16)));
    std::string bytes = piece;
    for (size_t at = 0; (at = bytes.find(kSpace, at)) != std::string::npos; ++at)
        bytes.replace(at, sizeof(kSpace) - 1, " ");
    return bytes;
}

} // namespace

extern "C" {

gdn_status gdni_bpe_train(const char *path, const char *text, size_t bytes, int32_t vocab,
                          void **model, size_t *model_bytes) {
    return guarded(path, [&] {
        // Every byte stays representable, and nothing is normalised, added or removed.
        const std::unordered_map<std::string, std::string> options = {
            {"model_type", "bpe"},
            {"vocab_size", std::to_string(vocab)},
            {"hard_vocab_limit", "false"},
            {"byte_fallback", "true"},
            {"normalization_rule_name", "identity"},
            {"add_dummy_prefix", "false"},
            {"remove_extra_whitespaces", "false"},
            {"unk_id", "0"},
            {"bos_id", "-1"},
            {"eos_id", "-1"},
            {"pad_id", "-1"},
            {"max_sentence_length", "1000000"},
            {"num_threads", "1"},
            {"minloglevel", "2"},
        };
        std::string trained;
        Lines lines(text, bytes, false);
        const auto status = sentencepiece::SentencePieceTrainer::Train(options, &lines, &trained);
        if (!status.ok())
            return fail(path, "expected text and a vocabulary that BPE can be trained on",
                        status.ToString());
        if (!copy_out(trained.data(), trained.size(), model))
            throw std::bad_alloc();
        *model_bytes = trained.size();
        return GDN_STATUS_OK;
    });
}

gdn_status gdni_bpe_load(const char *path, const void *model, size_t model_bytes, gdni_bpe **bpe) {
    *bpe = nullptr;
    return guarded(path, [&] {
        gdni_bpe *loaded = new gdni_bpe;
        const auto status = loaded->processor.LoadFromSerializedProto(
            std::string(static_cast<const char *>(model), model_bytes));
        if (!status.ok()) {
            delete loaded;
            return fail(path, "dataset sentencepiece_model: expected a SentencePiece model",
                        status.ToString());
        }
        for (int id = 0; id < loaded->processor.GetPieceSize(); ++id)
            loaded->pieces.push_back(piece_bytes(loaded->processor, id));
        *bpe = loaded;
        return GDN_STATUS_OK;
    });
}

void gdni_bpe_free(gdni_bpe *bpe) {
    delete bpe;
}

int32_t gdni_bpe_vocab(const gdni_bpe *bpe) {
    return static_cast<int32_t>(bpe->pieces.size());
}

gdn_status gdni_bpe_encode(const gdni_bpe *bpe, const char *path, const char *text, size_t bytes,
                           int32_t **tokens, int64_t *count) {
    return guarded(path, [&] {
        std::vector<int32_t> all;
        for (Lines lines(text, bytes, true); !lines.done(); lines.Next()) {
            std::vector<int> ids;
            const auto status = bpe->processor.Encode(lines.value(), &ids);
            if (!status.ok())
                return fail(path, "expected text that BPE can encode", status.ToString());
            all.insert(all.end(), ids.begin(), ids.end());
        }
        void *copy;
        if (!copy_out(all.data(), all.size(), &copy))
            throw std::bad_alloc();
        *tokens = static_cast<int32_t *>(copy);
        *count = static_cast<int64_t>(all.size());
        return GDN_STATUS_OK;
    });
}

gdn_status gdni_bpe_decode(const gdni_bpe *bpe, const int32_t *tokens, int64_t count, char **text,
                           size_t *bytes) {
    return guarded("gdn_io_dataset_decode", [&] {
        std::string all;
        for (int64_t i = 0; i < count; ++i)
            all += bpe->pieces[static_cast<size_t>(tokens[i])];
        void *copy;
        if (!copy_out(all.data(), all.size(), &copy))
            throw std::bad_alloc();
        *text = static_cast<char *>(copy);
        *bytes = all.size();
        return GDN_STATUS_OK;
    });
}

} // extern "C"
