"""What a load will cost, from a calibration of the machine and the dataset's sizes. It loads nothing."""
