#include "sample_text.h"

#include <ctype.h>
#include <stdlib.h>

#include "error.h"
#include "random.h"

enum {
    PROMPT_TOKENS = 64,
    STREAM_SAMPLE = 0x73616d70
};

/* Length of the UTF-8 character at text, 0 if it is none or a control character. */
static size_t character(const unsigned char *text, size_t left) {
    const size_t length = *text < 0x80   ? 1
                          : *text < 0xc2 ? 0
                          : *text < 0xe0 ? 2
                          : *text < 0xf0 ? 3
                          : *text < 0xf5 ? 4
                                         : 0;
    if (length > left || (length == 1 && *text != '\n' && *text != '\t' && iscntrl(*text)))
        return 0;
    for (size_t i = 1; i < length; ++i)
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    return length;
}

/* Says tokens as text, '?' for bytes that a terminal had better not see. */
static gdn_status say_text(gdn_io_dataset *dataset, gdni_progress *progress, const char *title,
                           const int32_t *tokens, int64_t count) {
    char *text = NULL;
    size_t bytes, length;
    GDN_TRY(gdn_io_dataset_decode(dataset, tokens, count, &text, &bytes));
    for (size_t i = 0; i < bytes; i += length ? length : 1) {
        length = character((const unsigned char *)text + i, bytes - i);
        if (!length)
            text[i] = '?';
    }
    gdni_progress_say(progress, "--- %s\n%.*s", title, (int)bytes, text);
    free(text);
    return GDN_STATUS_OK;
}

gdn_status gdni_sample_text(gdni_sampler *sampler, gdni_lm *lm, const gdni_config *config,
                            gdn_io_dataset *dataset, gdni_progress *progress) {
    const int64_t available = gdn_io_dataset_tokens(dataset, GDN_IO_HELDOUT);
    const int64_t prompt = available < PROMPT_TOKENS ? available : PROMPT_TOKENS;
    const int64_t total = prompt + config->sample_tokens;
    const void *logits = NULL;
    gdn_status status = GDN_STATUS_OK;
    int32_t *tokens = malloc((size_t)total * sizeof(*tokens));
    if (!tokens)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "sample: out of memory");
    GDN_TRY_GOTO(gdn_io_dataset_read(dataset, GDN_IO_HELDOUT, 0, prompt, tokens), cleanup);
    GDN_TRY_GOTO(gdni_lm_fetch(lm), cleanup);
    GDN_TRY_GOTO(gdni_lm_fetched(lm), cleanup);
    gdni_sampler_reset(sampler);
    for (int64_t i = 0; i + 1 < total; ++i) {
        GDN_TRY_GOTO(gdni_sampler_feed(sampler, tokens[i], &logits), cleanup);
        if (i + 1 >= prompt)
            tokens[i + 1] = gdni_sampler_choose(
                lm, logits, config->temperature,
                gdni_random_uniform((uint64_t)config->sample_seed, STREAM_SAMPLE, (uint64_t)i));
    }
    GDN_TRY_GOTO(say_text(dataset, progress, "prompt (held-out text)", tokens, prompt), cleanup);
    GDN_TRY_GOTO(say_text(dataset, progress, "sample", tokens + prompt, total - prompt), cleanup);
    gdni_progress_say(progress, "---");

cleanup:
    free(tokens);
    return status;
}
