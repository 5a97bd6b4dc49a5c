/* Work off the plan in the memory behind `plan_fd` (launch.c); the status of the process in between. */
int launch(int plan_fd);
