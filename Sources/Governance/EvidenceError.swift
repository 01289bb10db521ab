import Core

/// Why a piece of evidence can't be relied on, or could not be made.
package enum EvidenceError: Failure, Equatable {
  /// Which record is meant, as the file names it.
  package struct Place: Sendable, Equatable, CustomStringConvertible {
    package var index: Int
    package var kind: String
    package var subject: String

    package init(index: Int, kind: String, subject: String) {
      (self.index, self.kind, self.subject) = (index, kind, subject)
    }

    package var description: String { "record \(index) (\(kind) of \(subject))" }
  }

  /// The file is no JSON, or ends early.
  case notJSON(String)
  /// Something follows the document.
  case trailingData(bytes: Int)
  /// It is JSON, but not the members this format has.
  case malformed(String)
  case unsupported(format: String)
  /// The same values in other bytes: spaces, another order, another spelling.
  case notCanonical(offset: Int)
  /// A record does not have the digest it claims.
  case recordChanged(Place)
  /// A record stands where another was: one is missing, doubled or moved.
  case recordOutOfPlace(Place, expectedIndex: Int)
  /// The records are sound, but they are not the ones that were summed up.
  case rootChanged
  /// Run, root or signature was changed, or someone else signed.
  case signatureWrong
  /// Signed, but by another key than the one it is checked against.
  case keyWrong(expected: String, found: String)
  case badKey(String)
  case notRepresentable(String)

  package var report: Report {
    switch self {
    case .notJSON(let why):
      Report("EVIDENCE-101", "the file is not JSON: \(why)", retry: .never).remedy(Self.anotherCopy)
    case .trailingData(let bytes):
      Report("EVIDENCE-102", "\(bytes) bytes follow the document", retry: .never).remedy(Self.anotherCopy)
    case .malformed(let why):
      Report("EVIDENCE-103", "the document doesn't have the format's shape: \(why)", retry: .never).remedy(
        Self.anotherCopy)
    case .unsupported(let format):
      Report("EVIDENCE-104", "the format '\(format)' is not known", retry: .never)
        .remedy("verify it with the release of Salvor that wrote it, or a later one")
    case .notCanonical(let offset):
      Report("EVIDENCE-105", "the document is not spelled as it was signed, from byte \(offset) on", retry: .never)
        .remedy("don't reformat evidence; \(Self.anotherCopy)")
    case .recordChanged(let place):
      Report("EVIDENCE-106", "\(place) was changed after it was written", retry: .never).remedy(Self.anotherCopy)
    case .recordOutOfPlace(let place, let expected):
      Report("EVIDENCE-107", "\(place) stands where record \(expected) should", retry: .never)
        .state("records were removed, added or moved").remedy(Self.anotherCopy)
    case .rootChanged:
      Report("EVIDENCE-108", "the records are not the ones that were signed: the root differs", retry: .never)
        .state("a record at the end may be missing").remedy(Self.anotherCopy)
    case .signatureWrong:
      Report("EVIDENCE-109", "the signature does not fit", retry: .never)
        .state("the run's name, the root or the signature was changed, or someone else signed").remedy(Self.anotherCopy)
    case .keyWrong(let expected, let found):
      Report("EVIDENCE-110", "signed with key \(found), not with key \(expected)", retry: .never)
        .remedy("check against the public key that was handed over outside the evidence")
    case .badKey(let why):
      Report("EVIDENCE-111", "the key can't be used: \(why)").remedy("give the file that `EvidenceSigner` wrote")
    case .notRepresentable(let why):
      Report("EVIDENCE-112", "the record can't be written down: \(why)", retry: .never)
        .remedy("use text, whole numbers, lists and objects; give fractions as text")
    }
  }

  private static let anotherCopy = "the content can't be relied on; fetch another copy from where it was first stored"
}
