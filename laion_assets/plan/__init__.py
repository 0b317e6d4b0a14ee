"""What a load will cost: from a calibration on the machine at hand and the dataset's sizes. It loads nothing."""
