import Core

/// What clients ask of the gateway.
struct TransferRequest: Codable, Sendable {
  var from: String
  var to: String
  /// In cents, more than zero.
  var amount: Int64
  var customer: String
}

/// A transfer with its id, as the services know it.
struct Transfer: Codable, Sendable {
  var id: String
  var from: String
  var to: String
  /// In cents.
  var amount: Int64

  func validate() throws(BankError) {
    try validateName(id, what: "id")
    try validateName(from, what: "from")
    try validateName(to, what: "to")
    guard amount > 0, amount <= 1_000_000_000_000 else { throw .refused("amount must be 1 to 10^12 cents") }
    guard from != to else { throw .refused("from and to are the same account") }
  }
}

/// A transfer, and whose it is: what the ledger books and a statement says.
struct CustomerTransfer: Codable, Sendable {
  var customer: String
  var transfer: Transfer

  /// What an event says: `customer,id,from,to,amount`.
  var line: String { "\(customer),\(transfer.id),\(transfer.from),\(transfer.to),\(transfer.amount)" }

  func validate() throws(BankError) {
    try transfer.validate()
    try validateName(customer, what: "customer")
  }
}

struct TransferReceipt: Codable, Sendable {
  var id: String
}

struct SessionUpdate: Codable, Sendable {
  var lastTransfer: String

  enum CodingKeys: String, CodingKey { case lastTransfer = "last_transfer" }
}

struct Health: Codable, Sendable {
  var ok: Bool
  var service: String
}

struct ErrorBody: Codable, Sendable {
  var error: Report
}

/// Names become keys, paths and file names: 1 to 64 of `a-z`, `0-9` and `-`.
func validateName(_ text: String, what: String) throws(BankError) {
  let bytes = text.utf8
  let isName =
    (1...64).contains(bytes.count) && bytes.allSatisfy { (97...122).contains($0) || (48...57).contains($0) || $0 == 45 }
  guard isName else { throw .refused("\(what) must be 1 to 64 of a-z, 0-9 and '-'") }
}
