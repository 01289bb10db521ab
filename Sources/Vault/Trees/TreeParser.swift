import Core
import IO

/// Reads tree blobs, one node after another, without building a document.
///
/// The bytes may be hostile: nesting is bounded, numbers are checked, a name that could leave its directory
/// is refused. Fields this version doesn't know are skipped.
package enum TreeParser {
  /// - Returns: The nodes ascending by name, whatever their order was.
  /// - Throws: ``TreeError/malformed(why:offset:)``, also for a name that comes twice.
  package static func parse(_ bytes: [UInt8]) throws(TreeError) -> [TreeNode] {
    var nodes: [TreeNode] = []
    try bytes.withRawBytes { (raw) throws(TreeError) -> Void in
      var json = JSONCursor(raw)
      var sawNodes = false
      try json.object { (json, field) throws(TreeError) -> Void in
        guard field.spells("nodes") else { return try json.skipValue() }
        sawNodes = true
        if try json.takeNull() { return }
        try json.array { (json) throws(TreeError) -> Void in nodes.append(try node(&json)) }
      }
      try json.expectEnd()
      if !sawNodes { throw json.failure("there is no list of nodes") }
    }
    var isSorted = true
    for index in nodes.indices.dropFirst() where !(nodes[index - 1].name < nodes[index].name) { isSorted = false }
    if !isSorted {
      nodes.sort { $0.name < $1.name }
      for index in nodes.indices.dropFirst() where nodes[index - 1].name == nodes[index].name {
        throw .malformed(why: "the name '\(nodes[index].name)' comes twice", offset: 0)
      }
    }
    return nodes
  }

  private static func node(_ json: inout JSONCursor) throws(TreeError) -> TreeNode {
    var draft = Draft()
    try json.object { (json, field) throws(TreeError) -> Void in try draft.take(field, &json) }
    return try draft.node(json)
  }

  /// A node's fields as they come, in any order.
  private struct Draft {
    var name: [UInt8]?
    var type = NodeType.other([])
    var linkTarget: [UInt8] = []
    var linkTargetRaw: [UInt8]?
    var device: UInt64 = 0
    var node = TreeNode(
      name: "", metadata: FileMetadata(kind: .regular, permissions: 0, modified: Timestamp(nanoseconds: 0), links: 0))

    mutating func take(_ field: UnsafeRawBufferPointer, _ json: inout JSONCursor) throws(TreeError) {
      if try json.takeNull() { return }
      switch Field(field) {
      case .name: name = try json.string()
      case .type: type = try json.text { NodeType($0) }
      case .mode: node.metadata.permissions = GoFileMode.permissions(try json.uint32())
      case .mtime: node.metadata.modified = try time(&json)
      case .atime: node.metadata.accessed = try time(&json)
      case .ctime: node.metadata.changed = try time(&json)
      case .uid: node.metadata.userID = try json.uint32()
      case .gid: node.metadata.groupID = try json.uint32()
      case .user: node.metadata.userName = try json.text { String(decoding: $0, as: UTF8.self) }
      case .group: node.metadata.groupName = try json.text { String(decoding: $0, as: UTF8.self) }
      case .inode: node.metadata.inode = try json.uint64()
      case .deviceID: node.metadata.device = try json.uint64()
      case .size:
        guard let size = Int64(exactly: try json.uint64()) else { throw json.failure("the size is out of range") }
        node.metadata.size = size
      case .links: node.metadata.links = try json.uint64()
      case .linkTarget: linkTarget = try json.string()
      case .linkTargetRaw: linkTargetRaw = try base64(&json)
      case .extendedAttributes: node.metadata.extendedAttributes = try attributes(&json)
      case .genericAttributes: node.genericAttributes = try json.rawObject()
      case .device: device = try json.uint64()
      case .content:
        var content: [BlobID] = []
        try json.array { (json) throws(TreeError) -> Void in content.append(try json.digest()) }
        node.content = content
      case .subtree: node.subtree = try json.digest()
      case .error: node.error = String(decoding: try json.string(), as: UTF8.self)
      case nil: try json.skipValue()
      }
    }

    func node(_ json: JSONCursor) throws(TreeError) -> TreeNode {
      guard let name, let raw = GoText.unquote(name) else { throw json.failure("a node has no valid name") }
      guard let fileName = FileName(untrusted: raw) else {
        throw json.failure("'\(String(decoding: raw, as: UTF8.self))' can't be a name in a directory")
      }
      var result = node
      result.name = fileName
      switch type {
      case .file: result.metadata.kind = .regular
      case .directory:
        result.metadata.kind = .directory
        if result.subtree == nil { throw json.failure("the directory '\(fileName)' has no subtree") }
      case .symbolicLink:
        let target = linkTargetRaw ?? linkTarget
        if target.contains(0) { throw json.failure("the target of '\(fileName)' has a NUL") }
        result.metadata.kind = .symbolicLink(target: target)
      case .device: result.metadata.kind = .blockDevice(number: device)
      case .characterDevice: result.metadata.kind = .characterDevice(number: device)
      case .fifo: result.metadata.kind = .fifo
      case .socket: result.metadata.kind = .socket
      case .other(let text):
        throw .unsupportedKind(String(decoding: text.prefix(64), as: UTF8.self), name: fileName.lossyText)
      }
      if !result.metadata.kind.isRegular { result.content = [] }
      if !result.metadata.kind.isDirectory { result.subtree = nil }
      return result
    }

    private func time(_ json: inout JSONCursor) throws(TreeError) -> Timestamp {
      guard let time = try json.text({ GoText.time($0) }) else { throw json.failure("a time is not RFC 3339") }
      return time
    }

    private func base64(_ json: inout JSONCursor) throws(TreeError) -> [UInt8] {
      guard let bytes = GoText.base64(try json.string()) else { throw json.failure("a value is not base64") }
      return bytes
    }

    private func attributes(_ json: inout JSONCursor) throws(TreeError) -> [ExtendedAttribute] {
      var result: [ExtendedAttribute] = []
      try json.array { (json) throws(TreeError) -> Void in
        var attribute = ExtendedAttribute(name: "", value: [])
        try json.object { (json, field) throws(TreeError) -> Void in
          if try json.takeNull() { return }
          if field.spells("name") {
            attribute.name = String(decoding: try json.string(), as: UTF8.self)
          } else if field.spells("value") {
            attribute.value = try base64(&json)
          } else {
            try json.skipValue()
          }
        }
        if attribute.name.isEmpty || attribute.name.utf8.contains(0) {
          throw json.failure("an extended attribute has no valid name")
        }
        result.append(attribute)
      }
      return result
    }
  }

  /// Told apart without an array or a string for each: there are twenty to every node.
  private enum Field {
    case name, type, mode, mtime, atime, ctime, uid, gid, user, group, inode, deviceID, size, links, linkTarget,
      linkTargetRaw, extendedAttributes, genericAttributes, device, content, subtree, error

    init?(_ text: UnsafeRawBufferPointer) {
      switch text.count {
      case 3 where text.spells("uid"): self = .uid
      case 3 where text.spells("gid"): self = .gid
      case 4 where text.spells("name"): self = .name
      case 4 where text.spells("type"): self = .type
      case 4 where text.spells("mode"): self = .mode
      case 4 where text.spells("user"): self = .user
      case 4 where text.spells("size"): self = .size
      case 5 where text.spells("mtime"): self = .mtime
      case 5 where text.spells("atime"): self = .atime
      case 5 where text.spells("ctime"): self = .ctime
      case 5 where text.spells("group"): self = .group
      case 5 where text.spells("inode"): self = .inode
      case 5 where text.spells("links"): self = .links
      case 5 where text.spells("error"): self = .error
      case 6 where text.spells("device"): self = .device
      case 7 where text.spells("content"): self = .content
      case 7 where text.spells("subtree"): self = .subtree
      case 9 where text.spells("device_id"): self = .deviceID
      case 10 where text.spells("linktarget"): self = .linkTarget
      case 14 where text.spells("linktarget_raw"): self = .linkTargetRaw
      case 18 where text.spells("generic_attributes"): self = .genericAttributes
      case 19 where text.spells("extended_attributes"): self = .extendedAttributes
      default: return nil
      }
    }
  }

  private enum NodeType {
    case file, directory, symbolicLink, device, characterDevice, fifo, socket
    case other([UInt8])

    init(_ text: UnsafeRawBufferPointer) {
      switch text.count {
      case 4 where text.spells("file"): self = .file
      case 3 where text.spells("dir"): self = .directory
      case 7 where text.spells("symlink"): self = .symbolicLink
      case 3 where text.spells("dev"): self = .device
      case 7 where text.spells("chardev"): self = .characterDevice
      case 4 where text.spells("fifo"): self = .fifo
      case 6 where text.spells("socket"): self = .socket
      default: self = .other(Array(text))
      }
    }
  }
}

extension UnsafeRawBufferPointer {
  /// Whether it holds just these characters.
  fileprivate func spells(_ word: StaticString) -> Bool {
    count == word.utf8CodeUnitCount
      && (count == 0 || memcmp(baseAddress!, UnsafeRawPointer(word.utf8Start), count) == 0)
  }
}

#if canImport(Glibc)
  import Glibc
#endif
