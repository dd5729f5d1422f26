"""What each space keeps of scene, sound and words: linear probes, context against content, dose curves."""
