import Core
import IO

/// Why the log, or a proof from it, can't be relied on, or could not be made.
package enum LogError: Failure, Equatable {
  case badNote(String)
  /// No key that is trusted has signed.
  case notSigned(by: [String])
  case signatureWrong(key: String)
  case badCheckpoint(String)
  /// A tile or a bundle of entries is missing, or isn't what was signed.
  case damaged(path: String, why: String)
  case proofWrong(String)
  /// Two trees of one log that can't both be true.
  case fork(origin: String, oldSize: Int64, newSize: Int64)
  /// Older than what was seen already.
  case wentBack(origin: String, seen: Int64, found: Int64)
  case badKey(String)
  case outOfRange(Int64, size: Int64)
  case entryTooLong(bytes: Int)
  /// The journal doesn't go on where the log ends.
  case journalReplaced(String)
  case badBundle(String)
  case notLogged(String)
  case witnessBehind(seen: Int64, offered: Int64)
  case system(Report)

  package var report: Report {
    switch self {
    case .badNote(let why):
      Report("EVIDENCE-201", "the signed note can't be read: \(why)", retry: .never).remedy(Self.anotherCopy)
    case .notSigned(let keys):
      Report(
        "EVIDENCE-202", "signed by \(keys.isEmpty ? "nobody" : keys.joined(separator: ", ")): no key that is trusted",
        retry: .never
      ).remedy(
        "check with the keys that were handed over outside the evidence; `salvor evidence key --log` prints them")
    case .signatureWrong(let key):
      Report("EVIDENCE-203", "the signature of \(key) does not fit", retry: .never).remedy(Self.anotherCopy)
    case .badCheckpoint(let why):
      Report("EVIDENCE-204", "the checkpoint can't be read: \(why)", retry: .never).remedy(Self.anotherCopy)
    case .damaged(let path, let why):
      Report("EVIDENCE-205", "the log's \(path) is damaged: \(why)", retry: .never)
        .state("nothing more is signed over it")
        .remedy("bring the file back from a copy of the log: every repository has one, under the tag salvor-evidence")
    case .proofWrong(let what):
      Report("EVIDENCE-206", "the proof does not lead to what was signed: \(what)", retry: .never)
        .remedy(Self.anotherCopy)
    case .fork(let origin, let old, let new):
      Report("EVIDENCE-207", "the log \(origin) was forked: its tree of \(new) does not begin with the one of \(old)")
        .state("what was seen before is kept").remedy(
          "keep both checkpoints: together they prove it; ask who holds the key")
    case .wentBack(let origin, let seen, let found):
      Report("EVIDENCE-208", "the log \(origin) ends at \(found), and was seen with \(seen) entries")
        .state("what was seen before is kept").remedy("bring the log back from a copy that has them all")
    case .badKey(let why):
      Report("EVIDENCE-209", "the log's key can't be used: \(why)")
        .remedy("give the lines that `salvor evidence key --log` prints")
    case .outOfRange(let index, let size):
      Report("EVIDENCE-210", "there is no entry \(index) among \(size)").remedy("`salvor evidence log` lists them")
    case .entryTooLong(let bytes):
      Report("EVIDENCE-211", "an entry of \(bytes) bytes is more than the log takes", retry: .never)
    case .journalReplaced(let why):
      Report("EVIDENCE-212", "the journal does not go on where the log ends: \(why)")
        .state("nothing was added to the log")
        .remedy(
          "bring the journal back; if it is lost, `salvor evidence publish --journal-replaced` goes on and says so")
    case .badBundle(let why):
      Report("EVIDENCE-213", "the bundle can't be read: \(why)", retry: .never).remedy(Self.anotherCopy)
    case .notLogged(let what):
      Report("EVIDENCE-214", "the log has nothing about \(what)").remedy("`salvor evidence log` lists what it has")
    case .witnessBehind(let seen, let offered):
      Report("EVIDENCE-215", "the witness has seen \(seen) entries, and the proof begins at \(offered)")
        .remedy("make the proof from there: `salvor evidence prove --since \(seen)`")
    case .system(let report): report
    }
  }

  init(_ failure: SystemFailure) { self = .system(failure.report) }

  private static let anotherCopy = "it can't be relied on; fetch another copy from where it was first stored"
}
