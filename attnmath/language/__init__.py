"""What an equation is: syntax, parser, order of evaluation, the table of operations, masks, letters, modifiers' mechanism."""
