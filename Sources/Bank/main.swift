print("bank")
