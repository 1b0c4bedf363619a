"""Write it down: functions, graphs, and the passes that improve them."""
