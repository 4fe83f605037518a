/* The report of a gradient check as a chart. */
#ifndef GDNI_TRAIN_REPORT_H
#define GDNI_TRAIN_REPORT_H

#include "gdn.h"

/* Draws the errors by head of a report of `gdn gradcheck -o` (CSV: tensor, against, head, error,
 * scale_error, tolerance, pass). BAD_FILE: file, line, expected, found. */
gdn_status gdni_report_plot(const char *path, const char *out);

#endif /* GDNI_TRAIN_REPORT_H */
