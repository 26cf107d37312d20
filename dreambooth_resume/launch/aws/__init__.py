"""AWS: an Auto Scaling group of one machine, which AWS itself fills again whenever it takes the machine away."""
