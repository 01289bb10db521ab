import Core
import Vault

/// What a request's path stands for. Nothing else is ever made into a path of a file.
struct RepositoryPath: Equatable {
  enum Target: Equatable {
    case repository
    case list(ObjectKind)
    case object(ObjectName)
    case metrics
  }

  /// The repository's directory, below the server's; may be empty: the server's own.
  var repository: [String]
  var target: Target
  /// `?create=true`.
  var isCreation = false

  static let depthLimit = 8

  /// - Parameter text: As in the request's first line.
  /// - Returns: `nil` for anything this server has no meaning for.
  init?(_ text: String) {
    let halves = text.split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)
    guard let path = halves.first, path.hasPrefix("/"), path.utf8.count <= 2048 else { return nil }
    isCreation = halves.count == 2 && halves[1] == "create=true"
    if path == "/metrics" {
      (repository, target) = ([], .metrics)
      return
    }
    var parts = path.dropFirst().split(separator: "/", omittingEmptySubsequences: false).map(String.init)
    let isDirectory = parts.last == ""
    if isDirectory { parts.removeLast() }
    if let last = parts.last, !isDirectory, last == ObjectKind.config.rawValue {
      (repository, target) = (parts.dropLast(), .object(.config))
    } else if isDirectory, let last = parts.last, let kind = ObjectKind(rawValue: last), kind != .config {
      (repository, target) = (parts.dropLast(), .list(kind))
    } else if !isDirectory, parts.count >= 2, let kind = ObjectKind(rawValue: parts[parts.count - 2]), kind != .config {
      guard let id = Digest(hex: parts[parts.count - 1]) else { return nil }
      (repository, target) = (parts.dropLast(2), .object(ObjectName(kind, id)))
    } else {
      (repository, target) = (parts, .repository)
    }
    guard repository.count <= Self.depthLimit, repository.allSatisfy(Self.isName) else { return nil }
  }

  /// A directory's name, or a user's: short, plain, hidden from nobody, and not one that restic gives a meaning.
  static func isName(_ text: String) -> Bool {
    guard (1...64).contains(text.utf8.count), !text.hasPrefix("."), !text.hasPrefix("-"),
      ObjectKind(rawValue: text) == nil, text != "metrics"
    else { return false }
    return text.utf8.allSatisfy { byte in
      switch byte {
      case 48...57, 65...90, 97...122, 45, 46, 95: true
      default: false
      }
    }
  }
}
