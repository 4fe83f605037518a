/* Checkpoints: round trip, rotation, the newest whole one of a directory with damage in it. */
#include "files.h"

static float weights[3][5];
static const int64_t order[4] = {3, 1, 0, 2};

static gdn_status save(const char *dir, int64_t step, int32_t keep) {
    for (int i = 0; i < 15; ++i)
        weights[i / 5][i % 5] = (float)(100 * step + i);
    const gdn_io_entry entries[] = {
        {"model/weights", GDN_IO_F32, 2, {3, 5}, weights},
        {"order", GDN_IO_I64, 1, {4}, order},
        {"note", GDN_IO_TEXT, 1, {5}, "hello"},
    };
    return gdn_io_checkpoint_write(dir, step, keep, entries, 3);
}

/* The step of the newest whole checkpoint, -1 if there is none. */
static int64_t latest(const char *dir) {
    char path[512];
    gdn_io_checkpoint *c;
    int64_t step = -1;
    if (gdn_io_checkpoint_latest(dir, path, sizeof(path)) != GDN_STATUS_OK)
        return -1;
    if (gdn_io_checkpoint_open(path, &c) == GDN_STATUS_OK)
        step = gdn_io_checkpoint_step(c);
    gdn_io_checkpoint_close(c);
    return step;
}

static const char *step_file(const char *dir, int step) {
    char name[64];
    snprintf(name, sizeof(name), "%s/step-%012d.h5", dir, step);
    return file_in(name);
}

static void round_trip(void) {
    const char *dir = file_in("a/deep/dir");
    float got[3][5];
    int64_t shape[4];
    int32_t ndim = -1;
    char note[5], path[512];
    gdn_io_checkpoint *c = NULL;
    CHECK(save(dir, 12, 0) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(gdn_io_checkpoint_latest(dir, path, sizeof(path)) == GDN_STATUS_OK, "%s",
          gdn_last_error());
    CHECK(!strcmp(path, step_file("a/deep/dir", 12)), "%s", path);
    CHECK(gdn_io_checkpoint_open(path, &c) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(gdn_io_checkpoint_step(c) == 12, "step");
    CHECK(gdn_io_checkpoint_shape(c, "model/weights", GDN_IO_F32, &ndim, shape) == GDN_STATUS_OK &&
              ndim == 2 && shape[0] == 3 && shape[1] == 5,
          "shape %d", ndim);
    gdn_io_entry want = {"model/weights", GDN_IO_F32, 2, {3, 5}, NULL};
    CHECK(gdn_io_checkpoint_read(c, &want, got) == GDN_STATUS_OK &&
              !memcmp(got, weights, sizeof(got)),
          "%s", gdn_last_error());
    const gdn_io_entry text = {"note", GDN_IO_TEXT, 1, {5}, NULL};
    CHECK(gdn_io_checkpoint_read(c, &text, note) == GDN_STATUS_OK && !memcmp(note, "hello", 5),
          "%s", gdn_last_error());
    want.shape[1] = 4;
    check_line(gdn_io_checkpoint_read(c, &want, got), GDN_STATUS_BAD_FILE,
               "dataset model/weights: expected shape [3, 4], found [3, 5]");
    check_line(gdn_io_checkpoint_shape(c, "model/weights", GDN_IO_F64, &ndim, shape),
               GDN_STATUS_BAD_FILE, "expected float64, found a 32-bit floating-point type");
    check_line(gdn_io_checkpoint_shape(c, "model/bias", GDN_IO_F32, &ndim, shape),
               GDN_STATUS_BAD_FILE, "dataset model/bias");
    check_line(gdn_io_checkpoint_latest(dir, path, 5), GDN_STATUS_INVALID_ARGUMENT, "room");
    gdn_io_checkpoint_close(c);
}

static void rotation(void) {
    const char *dir = file_in("rotation");
    for (int step = 1; step <= 5; ++step)
        CHECK(save(dir, step, 2) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(files_count(dir) == 2 && file_exists(step_file("rotation", 4)) &&
              file_exists(step_file("rotation", 5)),
          "%d files", files_count(dir));
    /* What is not a checkpoint stays. */
    file_write(file_in("rotation/step-7.h5"), "x", 1);
    file_write(file_in("rotation/notes.txt"), "x", 1);
    CHECK(save(dir, 6, 1) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(files_count(dir) == 3 && latest(dir) == 6, "%d files", files_count(dir));
    /* A run that went back keeps what it writes. */
    CHECK(save(dir, 2, 1) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(file_exists(step_file("rotation", 2)), "step 2 is gone");
    CHECK(save(dir, 3, 0) == GDN_STATUS_OK && files_count(dir) == 4, "keep 0 keeps all");
}

static void damage(void) {
    const char *dir = file_in("damage");
    for (int step = 1; step <= 5; ++step)
        CHECK(save(dir, step, 0) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(latest(dir) == 5, "latest %d", (int)latest(dir));
    /* One byte of the weights: 507 is among those of step 5 alone. */
    const float mark = 507;
    const long at = file_find(step_file("damage", 5), &mark, sizeof(mark));
    CHECK(at > 0, "weights not found in the file");
    file_flip(step_file("damage", 5), at);
    CHECK(latest(dir) == 4, "flipped data: latest %d", (int)latest(dir));
    CHECK(truncate(step_file("damage", 4), file_size(step_file("damage", 4)) - 1) == 0, "truncate");
    CHECK(latest(dir) == 3, "cut by a byte: latest %d", (int)latest(dir));
    CHECK(truncate(step_file("damage", 3), 0) == 0, "truncate");
    CHECK(latest(dir) == 2, "empty: latest %d", (int)latest(dir));
    file_flip(step_file("damage", 2), 60); /* the root group's header */
    CHECK(latest(dir) == 1, "flipped header: latest %d", (int)latest(dir));
    file_write(step_file("damage", 1), "text", 4);
    char path[512];
    check_line(gdn_io_checkpoint_latest(dir, path, sizeof(path)), GDN_STATUS_BAD_FILE,
               "found 5 damaged");
    check_line(gdn_io_checkpoint_latest(file_in("nowhere"), path, sizeof(path)),
               GDN_STATUS_BAD_FILE, "No such file");
}

/* What a killed run leaves: ignored, and gone with the next write. */
static void leftovers(void) {
    const char *dir = file_in("leftovers");
    CHECK(save(dir, 1, 0) == GDN_STATUS_OK, "%s", gdn_last_error());
    /* No process has the largest id that a pid_t holds; this process is alive. */
    file_write(file_in("leftovers/.step-000000000002.h5.tmp.2147483647"), "half", 4);
    char mine[64];
    snprintf(mine, sizeof(mine), "leftovers/.step-000000000009.h5.tmp.%ld", (long)getpid());
    file_write(file_in(mine), "other", 5);
    CHECK(latest(dir) == 1, "latest %d", (int)latest(dir));
    CHECK(save(dir, 3, 0) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(!file_exists(file_in("leftovers/.step-000000000002.h5.tmp.2147483647")), "leftover");
    CHECK(file_exists(file_in(mine)), "a living process lost its file");
}

static void refusals(void) {
    const char *dir = file_in("refusals");
    gdn_io_entry e = {"a", GDN_IO_F32, 1, {2}, weights};
    check_line(gdn_io_checkpoint_write(dir, -1, 0, &e, 1), GDN_STATUS_INVALID_ARGUMENT, "step");
    e.name = "a//b";
    check_line(gdn_io_checkpoint_write(dir, 1, 0, &e, 1), GDN_STATUS_INVALID_ARGUMENT, "name");
    e.name = "a", e.ndim = 5;
    check_line(gdn_io_checkpoint_write(dir, 1, 0, &e, 1), GDN_STATUS_INVALID_ARGUMENT, "ndim");
    e.ndim = 1, e.shape[0] = -1;
    check_line(gdn_io_checkpoint_write(dir, 1, 0, &e, 1), GDN_STATUS_INVALID_ARGUMENT, "shape[0]");
    e.shape[0] = 2, e.data = NULL;
    check_line(gdn_io_checkpoint_write(dir, 1, 0, &e, 1), GDN_STATUS_INVALID_ARGUMENT, "data");
    e.data = weights;
    const gdn_io_entry twice[] = {e, e};
    check_line(gdn_io_checkpoint_write(dir, 1, 0, twice, 2), GDN_STATUS_INVALID_ARGUMENT, "twice");
    CHECK(files_count(dir) == 0, "%d files left", files_count(dir));
}

int main(void) {
    files_begin();
    round_trip();
    rotation();
    damage();
    leftovers();
    refusals();
    files_end();
    return harness_finish();
}
