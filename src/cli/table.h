/* Check reports as text and as CSV. */
#ifndef GDN_CLI_TABLE_H
#define GDN_CLI_TABLE_H

#include "gdn_check.h"

/* A row per head; where a tensor has more than 16 heads and `all` is 0, the failing ones and the
 * worst of the rest. */
void cli_print_report(const gdn_check_report *report, int all);

/* One line: PASS or FAIL, how many rows, and the worst element. */
void cli_print_verdict(const char *command, const gdn_check_report *report);

/* Columns tensor, against, head, error, scale_error, tolerance, pass. The file appears complete or
 * not at all; on failure prints a line and returns an exit code, otherwise CLI_OK. */
int cli_write_csv(const char *command, const char *path, const gdn_check_report *report);

#endif /* GDN_CLI_TABLE_H */
