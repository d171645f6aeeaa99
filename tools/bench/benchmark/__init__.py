"""What tools/bench/run is made of: systems, jobs that measure rows, a report, and the forms it is shown in."""
