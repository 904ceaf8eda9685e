"What a first reader does not need; each module shows how to add one of its kind."
