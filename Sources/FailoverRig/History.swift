import Core

/// One operation of a client, as the client saw it.
package struct Operation: Sendable, Equatable, Codable {
  package enum Outcome: String, Sendable, Codable {
    /// Acknowledged.
    case ok
    /// Refused: it has had no effect, and never will.
    case fail
    /// Nobody can say.
    case unknown
  }

  package enum Action: Sendable, Equatable, Codable {
    case append(key: Int, value: Int64)
    /// What a read found; nothing, unless it was acknowledged.
    case read(key: Int, value: Int64?)
    case write(key: Int, value: Int64)
    /// To become `new` if it was `old`; `found` is what it was after that.
    case swap(key: Int, old: Int64, new: Int64, found: Int64?)
    case transfer(from: Int, to: Int, amount: Int64)
    case sum(Int64?)
  }

  package var client: String
  package var action: Action
  /// Nanoseconds on one clock of all clients.
  package var start: Int64
  /// When the client knew; of an unknown one, when it gave up.
  package var end: Int64
  package var outcome: Outcome
  /// Who acknowledged it.
  package var server: String?
  /// That server's timeline when it did.
  package var epoch: Int64?
  package var why: String?

  package init(
    client: String, action: Action, start: Int64, end: Int64, outcome: Outcome, server: String? = nil,
    epoch: Int64? = nil, why: String? = nil
  ) {
    (self.client, self.action, self.start, self.end) = (client, action, start, end)
    (self.outcome, self.server, self.epoch, self.why) = (outcome, server, epoch, why)
  }

  /// Whether an acknowledgement of it promises something.
  package var isWrite: Bool {
    switch action {
    case .append, .write, .swap, .transfer, .read: true
    case .sum: false
    }
  }
}

/// What is in the servers when all is over.
package struct FinalState: Sendable, Equatable, Codable {
  /// By key.
  package var appended: [Int: Set<Int64>]
  package var registers: [Int: Int64]
  package var balances: Int64

  package init(appended: [Int: Set<Int64>] = [:], registers: [Int: Int64] = [:], balances: Int64 = 0) {
    (self.appended, self.registers, self.balances) = (appended, registers, balances)
  }
}
