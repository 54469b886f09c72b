"""What an encoder learns by: one file per objective, views and masks beside them."""
