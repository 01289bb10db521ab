import Core

/// Why a copy is not delivered. Values are never part of a message: they may be what is to stay secret.
package enum RedactionError: Failure {
  case badPolicy(file: String, line: Int, String)
  /// What no rule speaks of, or what contradicts itself; one line each.
  case refused([String])
  case unnamed(String)
  case doesNotFit(place: String, domain: String, why: String)
  case weakKey(bytes: Int)
  case unsupported(store: StoreName, driver: String)
  case destination(String, why: String)
  case notText(place: String, why: String)
  case found(Int, in: String)
  case noNeedles(String)

  package var report: Report {
    switch self {
    case .badPolicy(let file, let line, let why):
      Report("REDACT-101", "\(file):\(line): \(why)").remedy(
        "correct the policy; docs/operating/redaction.md has all of it")
    case .refused(let problems):
      Report(
        "REDACT-102",
        "the policy does not fit the stores: \(problems.prefix(20).joined(separator: "; "))"
          + (problems.count > 20 ? "; and \(problems.count - 20) more" : "")
      )
      .state("nothing was delivered").remedy(
        "`salvor redact check` lists all; `salvor redact suggest` writes a first policy"
      )
      .details(.array(problems.map { .string($0) }))
    case .unnamed(let what):
      Report("REDACT-103", "no rule speaks of \(what)").state("nothing was delivered").remedy("add a rule for it")
    case .doesNotFit(let place, let domain, let why):
      Report("REDACT-104", "a value of \(place) does not fit domain '\(domain)': \(why)").state("nothing was delivered")
        .remedy("widen the domain, or choose another action for it")
    case .weakKey(let bytes):
      Report("REDACT-105", "the policy's key has \(bytes) bytes, and fewer than 16 can be guessed")
        .remedy("make one: head -c 32 /dev/urandom | base64 > FILE")
    case .unsupported(let store, let driver):
      Report("REDACT-106", "store \(store) is of driver '\(driver)', whose copies can't be redacted", retry: .never)
        .state("nothing was delivered").remedy(
          "leave it out with --store; SQLite, PostgreSQL, Redis and files can be redacted")
    case .destination(let path, let why):
      Report("REDACT-107", "\(path) \(why)").state("nothing was delivered").remedy(
        "name a directory that does not exist yet")
    case .notText(let place, let why):
      Report("REDACT-108", "\(place) is not what its rule takes it for: \(why)").state("nothing was delivered")
        .remedy("choose another action for it")
    case .found(let count, let place):
      Report("REDACT-201", "\(count == 1 ? "1 value was" : "\(count) values were") found in \(place)", retry: .never)
        .remedy("don't hand it out; see where they are, and correct the policy")
    case .noNeedles(let path):
      Report("REDACT-202", "\(path) names nothing to look for").remedy(
        "write one value to a line, each of at least 4 bytes")
    }
  }
}
