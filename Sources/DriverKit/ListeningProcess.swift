import Core
import Glibc
import IO

/// Which process of this machine listens on a TCP port, as far as this user may see.
package enum ListeningProcess {
  /// Looks through `/proc`; blocks for some milliseconds per hundred processes.
  ///
  /// - Returns: `nil` if nobody is seen: nobody listens, another user's process does, or one in another network namespace.
  package static func find(port: UInt16) -> Int32? {
    let sockets = sockets(listeningOn: port)
    guard !sockets.isEmpty, let processes = try? Files.names(in: "/proc") else { return nil }
    var found: [Int32] = []
    var buffer = [CChar](repeating: 0, count: 128)
    for process in processes {
      guard let id = Int32(process.lossyText), let descriptors = try? Files.names(in: "/proc/\(id)/fd") else {
        continue
      }
      for descriptor in descriptors {
        let count = readlink("/proc/\(id)/fd/\(descriptor)", &buffer, buffer.count)
        guard count > 0, sockets.contains(buffer[..<count].map { UInt8(bitPattern: $0) }) else { continue }
        found.append(id)
        break
      }
    }
    // Two that share a socket: nobody can say which one serves.
    return found.count == 1 ? found[0] : nil
  }

  /// Whether anybody in this network namespace listens there. Blocks, briefly.
  package static func isListening(port: UInt16) -> Bool { !sockets(listeningOn: port).isEmpty }

  /// As links in `/proc/<pid>/fd` spell them.
  private static func sockets(listeningOn port: UInt16) -> Set<[UInt8]> {
    var sockets: Set<[UInt8]> = []
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
      guard let bytes = try? Files.read(table, limitBytes: 64 << 20) else { continue }
      for line in bytes.split(separator: 10).dropFirst() {
        // sl local_address rem_address st … uid timeout inode
        let words = line.split(separator: 32)
        guard words.count > 9, words[3].elementsEqual("0A".utf8), let colon = words[1].lastIndex(of: UInt8(ascii: ":")),
          UInt16(String(decoding: words[1][(colon + 1)...], as: UTF8.self), radix: 16) == port
        else { continue }
        sockets.insert(Array("socket:[".utf8) + words[9] + Array("]".utf8))
      }
    }
    return sockets
  }
}
