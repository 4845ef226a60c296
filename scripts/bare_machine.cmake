# Read by project() through -DCMAKE_PROJECT_INCLUDE=, on machines without ROS only.
#
# The CMake packages inside the ROS wheels name the Python headers of the machine that the
# wheels were made on. CMake refuses imported targets that name a folder which does not exist,
# so such folders are taken out of them once the whole project has been read.
function(cooper_forget_missing_folders)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(folders)
      set(present ${folders})
      foreach(folder IN LISTS folders)
        if(IS_ABSOLUTE "${folder}" AND NOT EXISTS "${folder}")
          list(REMOVE_ITEM present "${folder}")
        endif()
      endforeach()
      set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${present}")
    endif()
  endforeach()
endfunction()

cmake_language(DEFER CALL cooper_forget_missing_folders)
