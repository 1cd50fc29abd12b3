"""Fine-tuning on top of TRL and peft: SFT and DPO, whole, by adapters or by layers drawn (LISA)."""
