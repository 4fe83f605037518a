/* Configuration files: what is read, what is written back, what is refused and how. */
#include "config.h"

#include "harness.h"

static const char *folder;

static gdn_status read_text(gdni_config *config, const char *text) {
    char path[4096];
    snprintf(path, sizeof(path), "%s/config.ini", folder);
    FILE *file = fopen(path, "w");
    CHECK(file && fputs(text, file) >= 0 && !fclose(file), "%s", path);
    gdni_config_defaults(config);
    return gdni_config_read(config, path);
}

static void refuse(const char *text, const char *words) {
    gdni_config config;
    const gdn_status status = read_text(&config, text);
    const char *end = strstr(gdn_last_error(), "config.ini");
    CHECK(status == GDN_STATUS_BAD_FILE, "accepted: %s", text);
    CHECK(end && !strcmp(end + strlen("config.ini"), words), "expected ...%s, found %s", words,
          gdn_last_error());
}

static void check_good(void) {
    gdni_config config, again;
    char *text = NULL;
    gdn_status status = read_text(&config, "; a comment\n[model]\nwidth = 64 ; narrow\ntied=no\n"
                                           "[train]\nlr = 2e-4\n\n[sample]\ntemperature = 0.7\n");
    CHECK(status == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(config.width == 64 && !config.tied && config.lr == 2e-4 && config.temperature == 0.7,
          "values");
    CHECK(config.layers == 2 && config.context == 128, "defaults");
    config.lr = 1.0 / 3;
    status = gdni_config_text(&config, &text);
    CHECK(status == GDN_STATUS_OK && text, "%s", gdn_last_error());
    status = read_text(&again, text);
    CHECK(status == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(!memcmp(&config, &again, sizeof(config)), "not the same after writing and reading");
    CHECK(gdni_config_same(&config, text, NULL, "old") == GDN_STATUS_OK, "%s", gdn_last_error());
    config.steps = 5;
    CHECK(gdni_config_same(&config, text, NULL, "old") == GDN_STATUS_OK, "%s", gdn_last_error());
    config.seed = 5;
    CHECK(gdni_config_same(&config, text, "model", "old") == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(gdni_config_same(&config, text, NULL, "old") == GDN_STATUS_INVALID_ARGUMENT &&
              !strcmp(gdn_last_error(), "[train] seed: expected 1 as in old, found 5"),
          "%s", gdn_last_error());
    free(text);
}

static void check_relations(void) {
    gdni_config config;
    gdni_config_defaults(&config);
    CHECK(gdni_config_check(&config) == GDN_STATUS_OK, "%s", gdn_last_error());
    config.batch_tokens = 1000;
    CHECK(gdni_config_check(&config) == GDN_STATUS_INVALID_ARGUMENT &&
              strstr(gdn_last_error(), "multiple of context (128), found 1000"),
          "%s", gdn_last_error());
    gdni_config_defaults(&config);
    config.key_heads = 3;
    CHECK(gdni_config_check(&config) == GDN_STATUS_INVALID_ARGUMENT &&
              strstr(gdn_last_error(), "multiple of key_heads (3), found 2"),
          "%s", gdn_last_error());
    gdni_config_defaults(&config);
    config.warmup = 2000;
    CHECK(gdni_config_check(&config) == GDN_STATUS_INVALID_ARGUMENT &&
              strstr(gdn_last_error(), "at most steps (1000), found 2000"),
          "%s", gdn_last_error());
    gdni_config_defaults(&config);
    config.min_lr = 1;
    CHECK(gdni_config_check(&config) == GDN_STATUS_INVALID_ARGUMENT &&
              strstr(gdn_last_error(), "at most lr (0.003), found 1"),
          "%s", gdn_last_error());
}

int main(int argc, char **argv) {
    gdni_config config;
    folder = argc > 1 ? argv[1] : ".";
    if (read_text(&config, "[model]\n") == GDN_STATUS_UNSUPPORTED) {
        printf("skipped: this build has no INI parser\n");
        return 77;
    }
    check_good();
    check_relations();
    refuse("[model]\nwidht = 3\n", ":2: [model] widht: unknown key (see gdn train --help)");
    refuse("[modell]\nwidth = 3\n",
           ":2: [modell] width: expected section [model], [train] or [sample], found [modell]");
    refuse("[model]\n\nwidth = wide\n",
           ":3: [model] width: expected an integer from 1 to 65536, found 'wide'");
    refuse("[model]\nwidth = 1.5\n",
           ":2: [model] width: expected an integer from 1 to 65536, found '1.5'");
    refuse("[model]\nlayers = 0\n",
           ":2: [model] layers: expected an integer from 1 to 1024, found '0'");
    refuse("[train]\nlr = nan\n", ":2: [train] lr: expected a number from 0 to 1e+30, found 'nan'");
    refuse("[train]\nlr =\n", ":2: [train] lr: expected a number from 0 to 1e+30, found ''");
    refuse("[model]\ntied = maybe\n", ":2: [model] tied: expected true or false, found 'maybe'");
    refuse("[model]\nwidth = 8\nwidth = 9\n", ":3: [model] width: expected once, found again");
    refuse("[model]\nwidth = 8\nnonsense\n",
           ":3: expected [section] or key = value, found something else");
    gdni_config_defaults(&config);
    CHECK(gdni_config_read(&config, "no-such-file.ini") == GDN_STATUS_BAD_FILE &&
              strstr(gdn_last_error(), "no-such-file.ini: cannot read: No such file"),
          "%s", gdn_last_error());
    return harness_finish();
}
