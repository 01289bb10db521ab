import Core

/// Why a service of the bank could not do what was asked.
enum BankError: Failure {
  /// The store does not answer: gone, stopped, replaced under the service, or shut by a lock for too long.
  case storeAway(String)
  /// The store answered that it can't do this.
  case storeRefused(String)
  /// A service this one needs does not answer, or not with success.
  case peerAway(String, String)
  /// The caller asks for what can't be: an unknown account, no money, a malformed name.
  case refused(String)
  case notFound(String)
  case configuration(String)
  case notReady(String)

  var report: Report {
    switch self {
    case .storeAway(let what):
      Report("BANK-101", "the store is away: \(what)", retry: .afterBackoff)
        .remedy("start the store or bring it back; the service finds it again by itself")
    case .storeRefused(let what): Report("BANK-102", "the store refused: \(what)", retry: .never)
    case .peerAway(let name, let what):
      Report("BANK-103", "service \(name) failed: \(what)", retry: .afterBackoff).remedy(
        "look at that service's /health")
    case .refused(let what): Report("BANK-201", what, retry: .never)
    case .notFound(let what): Report("BANK-202", "there is no \(what)", retry: .never)
    case .configuration(let what): Report("BANK-301", what).remedy("correct the configuration file and start again")
    case .notReady(let what): Report("BANK-104", what, retry: .afterBackoff)
    }
  }
}
