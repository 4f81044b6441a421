# What a plain build compiles kernels for: the GPUs that this machine's driver shows.

# Sets RESULT to their architectures as CMAKE_CUDA_ARCHITECTURES names them, "80-real;90a-real"; to nothing
# where no driver answers or no GPU is of compute capability 8.0 or newer.
function(moe_machine_gpus result)
  set(architectures)
  find_program(MOE_NVIDIA_SMI nvidia-smi)
  mark_as_advanced(MOE_NVIDIA_SMI)
  if(MOE_NVIDIA_SMI)
    execute_process(COMMAND ${MOE_NVIDIA_SMI} --query-gpu=compute_cap --format=csv,noheader
      OUTPUT_VARIABLE answer ERROR_QUIET RESULT_VARIABLE status)
  endif()
  if("${status}" STREQUAL "0")
    string(REGEX MATCHALL "[0-9]+\\.[0-9]" capabilities "${answer}")
    foreach(capability IN LISTS capabilities)
      string(REPLACE "." "" number ${capability})
      # Hopper's own instructions (wgmma, setmaxnreg) are of the architecture 90a alone.
      if(number EQUAL 90)
        list(APPEND architectures 90a-real)
      elseif(number GREATER_EQUAL 80)
        list(APPEND architectures ${number}-real)
      endif()
    endforeach()
    list(REMOVE_DUPLICATES architectures)
    list(SORT architectures)
  endif()
  set(${result} ${architectures} PARENT_SCOPE)
endfunction()
