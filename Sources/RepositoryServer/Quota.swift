import Core
import IO
import Synchronization

/// How many bytes each owner has stored, and may. Counted once at the start, then kept.
final class Quota: Sendable {
  private let limit: Int?
  private let used: Mutex<[String: Int]>

  /// Blocks while the directory is counted, if there is a limit.
  init(limit: Int?, directory: String, perOwner: Bool) throws(SystemFailure) {
    self.limit = limit
    guard limit != nil else {
      used = Mutex([:])
      return
    }
    if perOwner {
      var counts: [String: Int] = [:]
      for name in try Files.names(in: directory) where Files.isDirectory("\(directory)/\(name.lossyText)") {
        counts[name.lossyText] = try Self.bytes(below: "\(directory)/\(name.lossyText)")
      }
      used = Mutex(counts)
    } else {
      used = Mutex(["": try Self.bytes(below: directory)])
    }
  }

  /// - Returns: `false` if that is more than is left; nothing is taken then.
  func take(_ count: Int, _ owner: String) -> Bool {
    guard let limit else { return true }
    return used.withLock { used in
      guard count <= limit - used[owner, default: 0] else { return false }
      used[owner, default: 0] += count
      return true
    }
  }

  func giveBack(_ count: Int, _ owner: String) {
    guard limit != nil else { return }
    used.withLock { $0[owner] = max(0, $0[owner, default: 0] - count) }
  }

  var total: Int? { limit == nil ? nil : used.withLock { $0.values.reduce(0, +) } }

  private static func bytes(below directory: String) throws(SystemFailure) -> Int {
    var result = 0
    for name in try Files.names(in: directory) {
      let path = "\(directory)/\(name.lossyText)"
      let file: File
      do throws(SystemFailure) { file = try File(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK) } catch {
        // Deleted since, or a link to elsewhere.
        if error.number == ENOENT || error.number == ELOOP { continue }
        throw error
      }
      let status = try file.status()
      if status.st_mode & S_IFMT == S_IFDIR { result += try bytes(below: path) } else { result += Int(status.st_size) }
    }
    return result
  }
}

#if canImport(Glibc)
  import Glibc
#endif
